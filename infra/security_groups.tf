# Allowed traffic: allowed_cidrs to the load balancer, or to the tasks without one; services to each other by local.connections;
# tracking and registry-api to the database. Everything else is closed, also inside the VPC.

resource "aws_security_group" "service" {
  # checkov:skip=CKV2_AWS_5: attached to the services in the fargate-service module
  for_each    = var.services
  name_prefix = "${var.name}-${each.key}-"
  description = "Tasks of ${each.key}"
  vpc_id      = local.network.vpc_id
  tags        = { Name = "${var.name}-${each.key}" }
  lifecycle { create_before_destroy = true }
}

resource "aws_security_group" "database" {
  # checkov:skip=CKV2_AWS_5: attached to the database
  name_prefix = "${var.name}-database-"
  description = "PostgreSQL, open to the services that use it"
  vpc_id      = local.network.vpc_id
  tags        = { Name = "${var.name}-database" }
  lifecycle { create_before_destroy = true }
}

resource "aws_security_group" "balancer" {
  # checkov:skip=CKV2_AWS_5: attached to the load balancer
  count       = var.load_balancer == null ? 0 : 1
  name_prefix = "${var.name}-balancer-"
  description = "Load balancer"
  vpc_id      = local.network.vpc_id
  tags        = { Name = "${var.name}-balancer" }
  lifecycle { create_before_destroy = true }
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  for_each                     = local.uses_database
  security_group_id            = aws_security_group.database.id
  description                  = "PostgreSQL from ${each.key}"
  referenced_security_group_id = aws_security_group.service[each.key].id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_vpc_security_group_egress_rule" "to_database" {
  for_each                     = local.uses_database
  security_group_id            = aws_security_group.service[each.key].id
  description                  = "PostgreSQL"
  referenced_security_group_id = aws_security_group.database.id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

# ECR, Secrets Manager, CloudWatch and S3 have public addresses and use TLS.
resource "aws_vpc_security_group_egress_rule" "to_aws" {
  for_each          = var.services
  security_group_id = aws_security_group.service[each.key].id
  description       = "APIs of AWS"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_ingress_rule" "from_service" {
  for_each                     = local.connections
  security_group_id            = aws_security_group.service[each.value.to].id
  description                  = "HTTP from ${each.value.from}"
  referenced_security_group_id = aws_security_group.service[each.value.from].id
  ip_protocol                  = "tcp"
  from_port                    = local.ports[each.value.to]
  to_port                      = local.ports[each.value.to]
}

resource "aws_vpc_security_group_egress_rule" "to_service" {
  for_each                     = local.connections
  security_group_id            = aws_security_group.service[each.value.from].id
  description                  = "HTTP to ${each.value.to}"
  referenced_security_group_id = aws_security_group.service[each.value.to].id
  ip_protocol                  = "tcp"
  from_port                    = local.ports[each.value.to]
  to_port                      = local.ports[each.value.to]
}

# Without a load balancer, allowed_cidrs reach the port of each service in clear text.
resource "aws_vpc_security_group_ingress_rule" "service_from_outside" {
  for_each = var.load_balancer == null ? {
    for pair in setproduct(var.services, var.allowed_cidrs) : "${pair[0]} ${pair[1]}" => { service = pair[0], cidr = pair[1] }
  } : {}
  security_group_id = aws_security_group.service[each.value.service].id
  description       = "HTTP from ${each.value.cidr}"
  cidr_ipv4         = each.value.cidr
  ip_protocol       = "tcp"
  from_port         = local.ports[each.value.service]
  to_port           = local.ports[each.value.service]
}

# With one, they reach 443, and 80 for the redirect; tasks accept the load balancer only.
resource "aws_vpc_security_group_ingress_rule" "balancer_from_outside" {
  for_each = var.load_balancer == null ? {} : {
    for pair in setproduct([80, 443], var.allowed_cidrs) : "${pair[0]} ${pair[1]}" => { port = tonumber(pair[0]), cidr = pair[1] }
  }
  security_group_id = aws_security_group.balancer[0].id
  description       = "Port ${each.value.port} from ${each.value.cidr}"
  cidr_ipv4         = each.value.cidr
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
}

resource "aws_vpc_security_group_ingress_rule" "service_from_balancer" {
  for_each                     = var.load_balancer == null ? [] : var.services
  security_group_id            = aws_security_group.service[each.key].id
  description                  = "HTTP from the load balancer"
  referenced_security_group_id = aws_security_group.balancer[0].id
  ip_protocol                  = "tcp"
  from_port                    = local.ports[each.key]
  to_port                      = local.ports[each.key]
}

resource "aws_vpc_security_group_egress_rule" "balancer_to_service" {
  for_each                     = var.load_balancer == null ? [] : var.services
  security_group_id            = aws_security_group.balancer[0].id
  description                  = "HTTP to ${each.key}"
  referenced_security_group_id = aws_security_group.service[each.key].id
  ip_protocol                  = "tcp"
  from_port                    = local.ports[each.key]
  to_port                      = local.ports[each.key]
}
