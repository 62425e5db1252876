resource "aws_db_subnet_group" "this" {
  name        = var.name
  description = "Private subnets of ${var.name}"
  subnet_ids  = local.network.private
}

resource "aws_db_parameter_group" "this" {
  name_prefix = "${var.name}-postgres17-"
  family      = "postgres17"
  description = "PostgreSQL 17 that refuses connections without TLS"
  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }
  lifecycle { create_before_destroy = true }
}

# Created before RDS creates them without retention.
resource "aws_cloudwatch_log_group" "database" {
  # checkov:skip=CKV_AWS_158: CloudWatch encrypts logs with a key of its own; a customer key costs 1 USD a month
  # checkov:skip=CKV_AWS_338: log_days sets the retention
  for_each          = toset(["postgresql", "upgrade"])
  name              = "/aws/rds/instance/${var.name}/${each.key}"
  retention_in_days = var.log_days
}

resource "aws_db_instance" "this" {
  # checkov:skip=CKV_AWS_157: a standby in another zone doubles the price; database.multi_az enables it
  # checkov:skip=CKV_AWS_161: MLflow logs in with a password; IAM logins expire after 15 minutes and its pool cannot renew them
  # checkov:skip=CKV_AWS_118: enhanced monitoring needs another role and is billed with the logs; RDS's own metrics are free
  # checkov:skip=CKV_AWS_353: not available for every small instance class
  # checkov:skip=CKV2_AWS_30: logging every statement would log parameters and tags of runs
  # checkov:skip=CKV_AWS_133: database.backup_days is 1 to 35; the check does not resolve the variable
  # checkov:skip=CKV_AWS_293: enabled by default; only `atelier_infra destroy` disables it
  count                           = local.live ? 1 : 0
  identifier                      = var.name
  engine                          = "postgres"
  engine_version                  = "17" # latest 17.x; with a full version, plans would downgrade automatic minor upgrades
  instance_class                  = var.database.instance_class
  allocated_storage               = var.database.storage_gib
  max_allocated_storage           = var.database.max_storage_gib
  storage_type                    = "gp3"
  storage_encrypted               = true
  multi_az                        = var.database.multi_az
  db_name                         = var.database_snapshot == null ? local.database_name : null
  username                        = var.database_snapshot == null ? local.database_user : null
  password_wo                     = local.env_file ? var.db_password : one(ephemeral.aws_secretsmanager_secret_version.database[*].secret_string)
  password_wo_version             = local.database_password_version
  snapshot_identifier             = var.database_snapshot
  db_subnet_group_name            = aws_db_subnet_group.this.name
  vpc_security_group_ids          = [aws_security_group.database.id]
  parameter_group_name            = aws_db_parameter_group.this.name
  publicly_accessible             = false
  auto_minor_version_upgrade      = true
  copy_tags_to_snapshot           = true
  backup_retention_period         = var.database.backup_days
  backup_window                   = "03:00-04:00"
  maintenance_window              = "sun:04:30-sun:05:30"
  enabled_cloudwatch_logs_exports = ["postgresql", "upgrade"]
  deletion_protection             = var.protect_data && !var.unlock_database
  delete_automated_backups        = !var.protect_data
  skip_final_snapshot             = false
  final_snapshot_identifier       = "${var.name}-${var.final_snapshot}"
  apply_immediately               = true
  depends_on                      = [aws_cloudwatch_log_group.database]

  lifecycle {
    # used at creation only; name and user come from the snapshot
    ignore_changes = [snapshot_identifier, db_name, username]
    precondition {
      condition     = !local.env_file || nonsensitive(var.db_password != null)
      error_message = "secrets = \"env-file\" needs db_password, which atelier_infra reads from secrets/tracking.env; run `python -m atelier_infra up` instead of `terraform apply`."
    }
  }
}
