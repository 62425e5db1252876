locals {
  account = data.aws_caller_identity.current.account_id
  # What runs. Everything that costs money by the hour hangs on this set or on `live`.
  live     = !var.data_only
  running  = local.live ? var.services : toset([])
  env_file = var.secrets == "env-file"
  measured = { for name, each in jsondecode(file("${path.module}/sizes.json")) : name => { cpu = each.cpu, memory_mib = each.memory_mib } }
  sizes    = merge(local.measured, var.sizes)
  # DB_PW is the only secret that Terraform sets, and never holds.
  ports         = { tracking = 80, registry-api = 8001, infer = 8002 }
  uses_database = setintersection(var.services, ["tracking", "registry-api"])
  # Who asks whom: registry-api lets infer load and draw versions, infer hears from registry-api that an alias moved.
  asks = {
    for pair in [["registry-api", "tracking"], ["infer", "tracking"], ["registry-api", "infer"], ["infer", "registry-api"]] :
    join(" asks ", pair) => { from = pair[0], to = pair[1] } if length(setsubtract(pair, var.services)) == 0
  }
  asked         = toset([for each in values(local.asks) : each.to])
  database_name = "mlflow"
  database_user = "atelier"

  # ARNs put together by hand, so that a plan shows every policy in full: the tests read it there
  here            = "${data.aws_partition.current.partition}:%s:${var.region}:${local.account}"
  bucket_arns     = { for kind, name in local.buckets : kind => "arn:${data.aws_partition.current.partition}:s3:::${name}" }
  repository_arns = { for each in var.services : each => "arn:${format(local.here, "ecr")}:repository/${var.name}/${each}" }
  log_group_arns  = { for each in var.services : each => "arn:${format(local.here, "logs")}:log-group:/${var.name}/${each}" }
  # Secrets Manager adds a hyphen and six characters to a secret's name
  secret_arns = { for each in setunion(var.services, ["database"]) : each => "arn:${format(local.here, "secretsmanager")}:secret:${var.name}/${each}-??????" }
}
