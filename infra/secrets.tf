# One secret per service, written by atelier_infra from the files that `init` creates, so that no credentials are in the state.
# The database password is generated here as an ephemeral value and passed to write-only arguments only.

locals {
  in_manager = local.env_file ? toset([]) : var.services
  # includes the mode, so that changing `secrets` sets the password of the new store
  database_password_version = var.db_password_version * 2 + (local.env_file ? 1 : 0)
  # environment variables in the secret or env file of a service
  login_names = ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "ATELIER_TOKENS"]
  secret_names = {
    tracking     = concat(["HTPASSWD", "ROLES"], local.env_file ? ["DB_PW"] : [])
    registry-api = concat(local.login_names, contains(var.services, "infer") ? ["ATELIER_REGISTRY_INFER_TOKEN"] : [], local.env_file ? ["PGPASSWORD"] : [])
    infer        = concat(local.login_names, contains(var.services, "registry-api") ? ["ATELIER_INFER_REGISTRY_TOKEN"] : [])
  }
}

resource "aws_secretsmanager_secret" "service" {
  # checkov:skip=CKV_AWS_149: encrypted with the account's key for Secrets Manager; a customer key costs 1 USD a month
  # checkov:skip=CKV2_AWS_57: people rotate their credentials; see docs/how-to/operations.md
  for_each                = local.in_manager
  name                    = "${var.name}/${each.key}"
  description             = "Secrets of ${each.key}: a JSON object of environment variables"
  recovery_window_in_days = var.protect_data ? 7 : 0
}

resource "aws_secretsmanager_secret" "database" {
  # checkov:skip=CKV_AWS_149: as above
  # checkov:skip=CKV2_AWS_57: db_password_version rotates it; rotation by Lambda would need access to the VPC
  count                   = local.env_file ? 0 : 1
  name                    = "${var.name}/database"
  description             = "Password of the database user ${local.database_user}"
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

# Read back, so that the database gets the stored password and not one that a later run generates. Read by the ARN of the version,
# which is unknown until the version exists: an interrupted run can leave a secret without a version.
ephemeral "aws_secretsmanager_secret_version" "database" {
  count     = local.env_file ? 0 : 1
  secret_id = aws_secretsmanager_secret_version.database[0].arn
}
