locals {
  account = data.aws_caller_identity.current.account_id
  # Everything that is billed by the hour depends on `live` or `running`.
  live          = !var.data_only
  running       = local.live ? var.services : toset([])
  env_file      = var.secrets == "env-file"
  default_sizes = { for name, each in jsondecode(file("${path.module}/sizes.json")) : name => { cpu = each.cpu, memory_mib = each.memory_mib } }
  sizes         = merge(local.default_sizes, var.sizes)
  ports         = { tracking = 80, registry-api = 8001, infer = 8002 }
  uses_database = setintersection(var.services, ["tracking", "registry-api"])
  # registry-api has infer load versions and generate validation images; infer receives alias events from registry-api.
  connections = {
    for pair in [["registry-api", "tracking"], ["infer", "tracking"], ["registry-api", "infer"], ["infer", "registry-api"]] :
    join(" to ", pair) => { from = pair[0], to = pair[1] } if length(setsubtract(pair, var.services)) == 0
  }
  discovered    = toset([for each in values(local.connections) : each.to])
  database_name = "mlflow"
  database_user = "atelier"

  # ARNs are composed from names, so that plans show policies in full; the tests check them there.
  arn_suffix      = "${data.aws_partition.current.partition}:%s:${var.region}:${local.account}"
  bucket_arns     = { for kind, name in local.buckets : kind => "arn:${data.aws_partition.current.partition}:s3:::${name}" }
  repository_arns = { for each in var.services : each => "arn:${format(local.arn_suffix, "ecr")}:repository/${var.name}/${each}" }
  log_group_arns  = { for each in var.services : each => "arn:${format(local.arn_suffix, "logs")}:log-group:/${var.name}/${each}" }
  # Secrets Manager appends a hyphen and six characters to the name
  secret_arns = { for each in setunion(var.services, ["database"]) : each => "arn:${format(local.arn_suffix, "secretsmanager")}:secret:${var.name}/${each}-??????" }
}
