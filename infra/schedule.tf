# EventBridge Scheduler calls RDS and ECS directly, without a Lambda function. It stops every day, whatever `days` is, because
# AWS starts a stopped database again after seven days.

locals {
  clock = var.schedule == null ? {} : {
    for moment, value in { start = var.schedule.start, stop = var.schedule.stop } :
    moment => tonumber(split(":", value)[0]) * 60 + tonumber(split(":", value)[1])
  }
  scheduled = var.schedule == null ? toset([]) : local.running
  cron      = { for name, minute in { database_start = try(local.clock.start - 15, 0), start = try(local.clock.start, 0), stop = try(local.clock.stop, 0), database_stop = try(local.clock.stop + 5, 0) } : name => "${minute % 60} ${floor(minute / 60)}" }
  # each input is encoded separately: in one map of mixed types, numbers would become strings
  calls = length(local.scheduled) == 0 ? {} : merge(
    {
      database-start = { at = "cron(${local.cron.database_start} ? * ${var.schedule.days} *)", api = "rds:startDBInstance", input = jsonencode({ DbInstanceIdentifier = one(aws_db_instance.this[*].identifier) }) }
      database-stop  = { at = "cron(${local.cron.database_stop} * * ? *)", api = "rds:stopDBInstance", input = jsonencode({ DbInstanceIdentifier = one(aws_db_instance.this[*].identifier) }) }
    },
    { for each in local.scheduled : "${each}-start" => { at = "cron(${local.cron.start} ? * ${var.schedule.days} *)", api = "ecs:updateService", input = jsonencode({ Cluster = aws_ecs_cluster.this.name, Service = module.service[each].service_name, DesiredCount = 1 }) } },
    { for each in local.scheduled : "${each}-stop" => { at = "cron(${local.cron.stop} * * ? *)", api = "ecs:updateService", input = jsonencode({ Cluster = aws_ecs_cluster.this.name, Service = module.service[each].service_name, DesiredCount = 0 }) } },
  )
}

resource "aws_scheduler_schedule" "this" {
  # checkov:skip=CKV_AWS_297: it has names only; a customer key costs 1 USD a month
  for_each                     = local.calls
  name                         = "${var.name}-${each.key}"
  description                  = each.value.api
  schedule_expression          = each.value.at
  schedule_expression_timezone = var.schedule.timezone
  flexible_time_window { mode = "OFF" }
  target {
    arn      = "arn:${data.aws_partition.current.partition}:scheduler:::aws-sdk:${each.value.api}"
    role_arn = aws_iam_role.scheduler[0].arn
    input    = each.value.input
    # a late stop could hit services that somebody has started by hand
    retry_policy {
      maximum_retry_attempts       = 3
      maximum_event_age_in_seconds = 600
    }
  }
}

data "aws_iam_policy_document" "scheduler_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "scheduler" {
  count                = length(local.scheduled) > 0 ? 1 : 0
  name                 = "${var.name}-scheduler"
  description          = "Starts and stops on schedule"
  assume_role_policy   = data.aws_iam_policy_document.scheduler_trust.json
  max_session_duration = 3600
}

data "aws_iam_policy_document" "scheduler" {
  count = length(local.scheduled) > 0 ? 1 : 0
  statement {
    sid       = "Database"
    actions   = ["rds:StartDBInstance", "rds:StopDBInstance"]
    resources = ["arn:${format(local.arn_suffix, "rds")}:db:${var.name}"]
  }
  statement {
    sid       = "Services"
    actions   = ["ecs:UpdateService"]
    resources = [for each in local.scheduled : "arn:${format(local.arn_suffix, "ecs")}:service/${var.name}/${each}"]
  }
}

resource "aws_iam_role_policy" "scheduler" {
  count  = length(local.scheduled) > 0 ? 1 : 0
  name   = "start-and-stop"
  role   = aws_iam_role.scheduler[0].id
  policy = data.aws_iam_policy_document.scheduler[0].json
}
