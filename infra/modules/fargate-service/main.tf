locals {
  # Docker's default capabilities; only NET_BIND_SERVICE is needed, for ports below 1024.
  dropped = [for each in [
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID",
    "SETPCAP", "SETUID", "SYS_CHROOT",
  ] : each if var.port >= 1024 || each != "NET_BIND_SERVICE"]

  # tracking's image has its own init process
  container = merge(
    {
      name             = var.service
      image            = "${var.repository_url}:not-deployed-yet" # `atelier_infra deploy` sets the tag
      essential        = true
      cpu              = var.size.cpu
      memory           = var.size.memory_mib
      portMappings     = [{ containerPort = var.port, hostPort = var.port, protocol = "tcp" }]
      environment      = [for key in sort(keys(var.environment)) : { name = key, value = var.environment[key] }]
      environmentFiles = var.env_file == null ? [] : [{ type = "s3", value = "${var.env_file.bucket_arn}/${var.env_file.key}" }]
      secrets          = [for key in sort(keys(var.secrets)) : { name = key, valueFrom = var.secrets[key] }]
      mountPoints      = []
      volumesFrom      = []
      systemControls   = []
      stopTimeout      = var.stop_s
      linuxParameters  = { capabilities = { drop = local.dropped }, initProcessEnabled = !var.has_init }
      healthCheck = {
        command     = ["CMD", "python", "-ISc", "import urllib.request as u; u.urlopen('http://127.0.0.1:${var.port}/healthz', timeout=4)"]
        interval    = 15
        timeout     = 5
        retries     = 4
        startPeriod = 120
      }
      logConfiguration = {
        logDriver = "awslogs"
        options   = { awslogs-group = var.log_group_name, awslogs-region = var.region, awslogs-stream-prefix = "task" }
      }
    },
    # a task's command, such as `migrate` of tracking, becomes the arguments of the shell command
    var.start_command == null ? {} : { entryPoint = ["/bin/sh", "-c", var.start_command, "start"] },
  )
}

# A template: `atelier_infra deploy` registers copies with an image, so that Terraform and deployments do not revert each other.
resource "aws_ecs_task_definition" "this" {
  # checkov:skip=CKV_AWS_336: Fargate's empty volumes belong to root, and the services run as other users and write temporary files
  # checkov:skip=CKV_AWS_249: the two roles differ; the check does not resolve the module
  family                   = "${var.name}-${var.service}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.size.cpu
  memory                   = var.size.memory_mib
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  container_definitions    = jsonencode([local.container])
  skip_destroy             = false
  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }
}

resource "aws_ecs_service" "this" {
  # checkov:skip=CKV_AWS_333: a public address costs 4 USD a month, a NAT gateway 33; the security group admits allowed_cidrs only
  name                               = var.service
  cluster                            = var.cluster_arn
  task_definition                    = aws_ecs_task_definition.this.arn
  desired_count                      = 0 # set by `atelier_infra start`
  launch_type                        = "FARGATE"
  platform_version                   = "LATEST"
  enable_execute_command             = false
  propagate_tags                     = "SERVICE"
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = var.balancer != null ? 180 : null

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [var.security_group_id]
    assign_public_ip = true
  }

  dynamic "load_balancer" {
    for_each = var.balancer[*]
    content {
      target_group_arn = load_balancer.value.target_group_arn
      container_name   = var.service
      container_port   = var.port
    }
  }

  dynamic "service_registries" {
    for_each = var.discovery[*]
    content { registry_arn = service_registries.value.arn }
  }

  lifecycle {
    # managed by `atelier_infra` (deploy, start, stop) and the schedule
    ignore_changes = [task_definition, desired_count]
  }
}
