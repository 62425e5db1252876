data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [var.account]
    }
    condition {
      test     = "ArnLike"
      variable = "aws:SourceArn"
      values   = ["arn:${var.partition}:ecs:${var.region}:${var.account}:*"]
    }
  }
}

# Used by ECS before the container starts: pull the image, read secrets, write the log.
resource "aws_iam_role" "execution" {
  name                 = "${var.name}-${var.service}-execution"
  description          = "ECS on behalf of ${var.service}: image, secrets, log"
  assume_role_policy   = data.aws_iam_policy_document.trust.json
  max_session_duration = 3600
}

data "aws_iam_policy_document" "execution" {
  # checkov:skip=CKV_AWS_356: GetAuthorizationToken supports the resource * only
  # checkov:skip=CKV_AWS_111: GetAuthorizationToken supports the resource * only
  statement {
    sid       = "EcrToken"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }
  statement {
    sid       = "PullImage"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [var.repository_arn]
  }
  statement {
    sid       = "WriteLog"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${var.log_group_arn}:log-stream:task/*"]
  }
  dynamic "statement" {
    for_each = length(var.secret_arns) > 0 ? [1] : []
    content {
      sid       = "ReadSecrets"
      actions   = ["secretsmanager:GetSecretValue"]
      resources = var.secret_arns
    }
  }
}

resource "aws_iam_role_policy" "execution" {
  name   = "image-log-secrets"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution.json
}

data "aws_iam_policy_document" "env_file" {
  count = var.env_file == null ? 0 : 1
  statement {
    sid       = "FindBucket"
    actions   = ["s3:GetBucketLocation"]
    resources = [var.env_file.bucket_arn]
  }
  statement {
    sid       = "ReadEnvFile"
    actions   = ["s3:GetObject"]
    resources = ["${var.env_file.bucket_arn}/${var.env_file.key}"]
  }
}

resource "aws_iam_role_policy" "env_file" {
  count  = var.env_file == null ? 0 : 1
  name   = "env-file"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.env_file[0].json
}

# Used by the service.
resource "aws_iam_role" "task" {
  name                 = "${var.name}-${var.service}-task"
  description          = "Permissions of ${var.service}"
  assume_role_policy   = data.aws_iam_policy_document.trust.json
  max_session_duration = 3600
}

resource "aws_iam_role_policy" "task" {
  count  = var.task_policy == null ? 0 : 1
  name   = "own-data"
  role   = aws_iam_role.task.id
  policy = var.task_policy.json
}
