# One secret per service, filled by the command from the files that `init` wrote, so that no state file holds a login.
# The database's password is made here, but only passes through: ephemeral value → write-only arguments.

locals {
  in_manager = local.env_file ? toset([]) : var.services
  # the mode counts too: after a change of it the database takes the password of the other place
  database_password_version = var.db_password_version * 2 + (local.env_file ? 1 : 0)
  # what a service's secret or env file holds
  login_names = ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "ATELIER_TOKENS"]
  secret_names = {
    tracking     = concat(["HTPASSWD", "ROLES"], local.env_file ? ["DB_PW"] : [])
    registry-api = concat(local.login_names, contains(var.services, "infer") ? ["ATELIER_REGISTRY_INFER_TOKEN"] : [], local.env_file ? ["PGPASSWORD"] : [])
    infer        = concat(local.login_names, contains(var.services, "registry-api") ? ["ATELIER_INFER_REGISTRY_TOKEN"] : [])
  }
}

resource "aws_secretsmanager_secret" "service" {
  # checkov:skip=CKV_AWS_149: the account's own key for Secrets Manager encrypts it; a key of our own costs 1 USD a month
  # checkov:skip=CKV2_AWS_57: logins belong to people and change when they say so, not by a Lambda function
  for_each                = local.in_manager
  name                    = "${var.name}/${each.key}"
  description             = "Logins of ${each.key}: a JSON object, one member per environment variable"
  recovery_window_in_days = var.protect_data ? 7 : 0
}

resource "aws_secretsmanager_secret" "database" {
  # checkov:skip=CKV_AWS_149: as above
  # checkov:skip=CKV2_AWS_57: raise db_password_version; rotation by Lambda would need a way into the VPC
  count                   = local.env_file ? 0 : 1
  name                    = "${var.name}/database"
  description             = "Password of the database's user ${local.database_user}"
  recovery_window_in_days = var.protect_data ? 7 : 0
}

ephemeral "aws_secretsmanager_random_password" "database" {
  count               = local.env_file ? 0 : 1
  password_length     = 40
  exclude_punctuation = true
}

resource "aws_secretsmanager_secret_version" "database" {
  count                    = local.env_file ? 0 : 1
  secret_id                = aws_secretsmanager_secret.database[0].id
  secret_string_wo         = ephemeral.aws_secretsmanager_random_password.database[0].random_password
  secret_string_wo_version = var.db_password_version
}

# Read back, so that the database gets what the secret holds and not what a later run would have made. By the version's arn,
# which is unknown until there is a version: a run that was interrupted may have left a secret without one.
ephemeral "aws_secretsmanager_secret_version" "database" {
  count     = local.env_file ? 0 : 1
  secret_id = aws_secretsmanager_secret_version.database[0].arn
}
