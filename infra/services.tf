locals {
  tracking_uri = "http://tracking.${var.name}.internal"
  database     = { password = one(aws_secretsmanager_secret.database[*].arn), host = one(aws_db_instance.this[*].address) }
  tokens_file  = "/tmp/tokens"
  # ECS passes files as environment variables too; a shell command before the entry point writes them.
  database_ca      = var.database_ca_file == null ? null : replace(replace(trimspace(file(var.database_ca_file)), "\r", ""), "\n", "\\n")
  database_ca_file = "/tmp/database-ca.pem"
  database_tls     = local.database_ca == null ? "sslmode=require" : "sslmode=verify-full&sslrootcert=${local.database_ca_file}"
  start_with_ca    = local.database_ca == null ? "" : "umask 077 && printf '%b\\n' \"$DATABASE_CA\" > ${local.database_ca_file} && unset DATABASE_CA && "
  tracking_start   = local.database_ca == null ? null : "${local.start_with_ca}exec tini -- python3 -m atelier_tracking \"$@\""
  database_ca_env  = local.database_ca == null ? {} : { DATABASE_CA = local.database_ca }
  # The APIs read tokens from a file, and ECS passes secrets as environment variables only; docs/explanation/aws-secrets.md.
  start_with_tokens = "umask 077 && printf '%b\\n' \"$ATELIER_TOKENS\" > ${local.tokens_file} && unset ATELIER_TOKENS && exec python -m"

  definitions = {
    tracking = {
      environment = merge(
        {
          DB_NAME         = local.database_name
          DB_USER         = local.database_user
          DB_PORT         = "5432"
          DB_ENDPOINT     = local.database.host
          DB_TLS_MODE     = local.database_ca == null ? "require" : "verify-full"
          AWS_BUCKET_NAME = aws_s3_bucket.this["artifacts"].id
          AWS_REGION      = var.region
          DRAIN_TIMEOUT_S = "110"
        },
        local.database_ca == null ? {} : { DB_TLS_CA_FILE = local.database_ca_file },
        local.database_ca_env,
        var.load_balancer == null ? {} : { PUBLIC_URL = "https://${var.load_balancer.domain}", TRUSTED_PROXIES = local.network.cidr },
        contains(var.services, "registry-api") ? { REGISTRY_USER = "registry-api" } : {},
      )
      from_database = local.env_file ? {} : { DB_PW = local.database.password }
      start         = local.tracking_start
      task_policy   = { json = data.aws_iam_policy_document.artifacts.json }
      stop_s        = 120 # lets running uploads finish
    }
    registry-api = {
      environment = merge(
        {
          ATELIER_REGISTRY_TRACKING_URI = local.tracking_uri
          ATELIER_REGISTRY_DATABASE_URL = "postgresql://${local.database_user}@${local.database.host == null ? "" : local.database.host}:5432/${local.database_name}?${local.database_tls}"
          ATELIER_REGISTRY_TOKEN_FILE   = local.tokens_file
          MLFLOW_DISABLE_TELEMETRY      = "true"
        },
        local.database_ca_env,
        local.anchor ? { ATELIER_REGISTRY_ANCHOR_BUCKET = aws_s3_bucket.anchor[0].id, AWS_DEFAULT_REGION = var.region } : {},
        contains(var.services, "infer") ? { ATELIER_REGISTRY_INFER_URL = "http://infer.${var.name}.internal:${local.ports.infer}" } : {},
      )
      from_database = local.env_file ? {} : { PGPASSWORD = local.database.password } # read by PostgreSQL's client library
      start         = "${local.start_with_ca}${local.start_with_tokens} atelier_registry"
      task_policy   = local.anchor ? { json = data.aws_iam_policy_document.anchor[0].json } : null
      stop_s        = 40
    }
    infer = {
      environment = merge(
        {
          ATELIER_INFER_TRACKING_URI = local.tracking_uri
          ATELIER_INFER_MODEL        = var.infer_model
          ATELIER_INFER_TOKEN_FILE   = local.tokens_file
          ATELIER_INFER_CACHE_DIR    = "/var/cache/atelier"
          MLFLOW_DISABLE_TELEMETRY   = "true"
        },
        contains(var.services, "registry-api") ? { ATELIER_INFER_EVENTS_URL = "http://registry-api.${var.name}.internal:${local.ports.registry-api}" } : {},
        # a link for people, so only with a fixed address
        contains(var.services, "registry-api") && var.load_balancer != null ? { ATELIER_INFER_REGISTRY_URL = "https://${local.names.registry-api}" } : {},
      )
      from_database = {}
      start         = "${local.start_with_tokens} atelier_infer"
      task_policy   = null
      stop_s        = 40
    }
  }
}

# Exactly the calls that MLflow's artifact proxy makes.
data "aws_iam_policy_document" "artifacts" {
  statement {
    sid       = "ListArtifacts"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]
    resources = [local.bucket_arns.artifacts]
  }
  statement {
    sid       = "ReadAndWriteArtifacts"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["${local.bucket_arns.artifacts}/*"]
  }
}

module "service" {
  source   = "./modules/fargate-service"
  for_each = local.running

  name              = var.name
  service           = each.key
  region            = var.region
  partition         = data.aws_partition.current.partition
  account           = local.account
  cluster_arn       = aws_ecs_cluster.this.arn
  repository_arn    = local.repository_arns[each.key]
  repository_url    = aws_ecr_repository.service[each.key].repository_url
  log_group_name    = aws_cloudwatch_log_group.service[each.key].name
  log_group_arn     = local.log_group_arns[each.key]
  port              = local.ports[each.key]
  size              = local.sizes[each.key]
  subnet_ids        = local.network.public
  security_group_id = aws_security_group.service[each.key].id
  environment       = local.definitions[each.key].environment
  start_command     = local.definitions[each.key].start
  has_init          = each.key == "tracking"
  task_policy       = local.definitions[each.key].task_policy
  stop_s            = local.definitions[each.key].stop_s
  secrets = merge(
    local.definitions[each.key].from_database,
    local.env_file ? {} : { for secret in local.secret_names[each.key] : secret => "${aws_secretsmanager_secret.service[each.key].arn}:${secret}::" },
  )
  secret_arns = local.env_file ? [] : [for secret in concat([each.key], length(local.definitions[each.key].from_database) > 0 ? ["database"] : []) : local.secret_arns[secret]]
  env_file    = local.env_file ? { bucket_arn = local.bucket_arns.config, key = "${each.key}.env" } : null
  balancer    = var.load_balancer == null ? null : { target_group_arn = aws_lb_listener_rule.service[each.key].action[0].target_group_arn }
  discovery   = contains(local.discovered, each.key) ? { arn = aws_service_discovery_service.service[each.key].arn } : null
}
