resource "aws_ecs_cluster" "this" {
  name = var.name
  setting {
    name  = "containerInsights"
    value = "disabled" # billed per metric; the services write logs
  }
  # checkov:skip=CKV_AWS_65: billed per metric
}

resource "aws_cloudwatch_log_group" "service" {
  # checkov:skip=CKV_AWS_158: CloudWatch encrypts logs with a key of its own; a customer key costs 1 USD a month
  # checkov:skip=CKV_AWS_338: log_days sets the retention; 30 days are enough by default
  for_each          = var.services
  name              = "/${var.name}/${each.key}"
  retention_in_days = var.log_days
}

# DNS names for calls between services, http://<service>.<name>.internal: addresses of tasks change at each start.
resource "aws_service_discovery_private_dns_namespace" "this" {
  count       = local.live && length(local.discovered) > 0 ? 1 : 0
  name        = "${var.name}.internal"
  description = "Names of ${var.name}'s services inside the VPC"
  vpc         = local.network.vpc_id
}

resource "aws_service_discovery_service" "service" {
  for_each = local.live ? local.discovered : []
  name     = each.key
  dns_config {
    namespace_id   = aws_service_discovery_private_dns_namespace.this[0].id
    routing_policy = "MULTIVALUE"
    dns_records {
      type = "A"
      ttl  = 10
    }
  }
}
