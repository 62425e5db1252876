resource "aws_ecs_cluster" "this" {
  name = var.name
  setting {
    name  = "containerInsights"
    value = "disabled" # billed per metric; the services log what they do
  }
  # checkov:skip=CKV_AWS_65: see the setting
}

resource "aws_cloudwatch_log_group" "service" {
  # checkov:skip=CKV_AWS_158: CloudWatch encrypts logs with a key of its own; one of ours costs 1 USD a month
  # checkov:skip=CKV_AWS_338: thirty days answer what happened; a year of logs is a matter of var.log_days
  for_each          = var.services
  name              = "/${var.name}/${each.key}"
  retention_in_days = var.log_days
}

# Services find each other by name, http://<service>.<name>.internal: without a balancer addresses change at each start.
resource "aws_service_discovery_private_dns_namespace" "this" {
  count       = local.live && length(local.asked) > 0 ? 1 : 0
  name        = "${var.name}.internal"
  description = "Names of ${var.name}'s services inside the VPC"
  vpc         = local.network.vpc_id
}

resource "aws_service_discovery_service" "asked" {
  for_each = local.live ? local.asked : []
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
