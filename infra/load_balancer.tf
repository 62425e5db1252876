# Optional: a load balancer with one certificate and one name per service: <domain> is tracking, registry-api.<domain> and
# infer.<domain> are the others.

locals {
  names       = { for each in var.services : each => var.load_balancer == null ? "" : each == "tracking" ? var.load_balancer.domain : "${each}.${var.load_balancer.domain}" }
  balanced    = var.load_balancer == null ? toset([]) : local.running
  own_zone    = try(var.load_balancer.zone_id, null) != null
  certificate = local.own_zone ? one(aws_acm_certificate_validation.this[*].certificate_arn) : try(var.load_balancer.certificate_arn, null)
}

resource "aws_lb" "this" {
  # checkov:skip=CKV2_AWS_28: a web application firewall costs more than everything else here; the security group admits allowed_cidrs only
  # checkov:skip=CKV_AWS_91: access logs need another bucket; the services log user and path
  # checkov:skip=CKV_AWS_150: it has no data, and the DNS name is kept
  count                      = length(local.balanced) > 0 ? 1 : 0
  name                       = var.name
  load_balancer_type         = "application"
  internal                   = false
  subnets                    = local.network.public
  security_groups            = [aws_security_group.balancer[0].id]
  drop_invalid_header_fields = true
  idle_timeout               = 600 # a large upload is idle while S3 assembles its parts
}

resource "aws_lb_target_group" "service" {
  # checkov:skip=CKV_AWS_378: TLS ends at the load balancer; tasks accept its security group only
  for_each             = local.balanced
  name                 = "${var.name}-${each.key}"
  port                 = local.ports[each.key]
  protocol             = "HTTP"
  target_type          = "ip"
  vpc_id               = local.network.vpc_id
  deregistration_delay = 60
  health_check {
    path                = "/readyz" # readiness; the container's health check replaces dead tasks
    matcher             = "200"
    interval            = 15
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 8 # ECS also replaces tasks that are unhealthy here; two minutes without MLflow or its database must not
  }
}

resource "aws_lb_listener" "https" {
  count             = length(aws_lb.this)
  load_balancer_arn = aws_lb.this[0].arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = local.certificate
  default_action {
    type = "fixed-response"
    fixed_response {
      content_type = "text/plain"
      message_body = "no service has this host name"
      status_code  = "404"
    }
  }
}

resource "aws_lb_listener_rule" "service" {
  for_each     = local.balanced
  listener_arn = aws_lb_listener.https[0].arn
  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.service[each.key].arn
  }
  condition {
    host_header { values = [local.names[each.key]] }
  }
}

resource "aws_lb_listener" "http" {
  # checkov:skip=CKV_AWS_103: it only redirects to HTTPS
  count             = length(aws_lb.this)
  load_balancer_arn = aws_lb.this[0].arn
  port              = 80
  protocol          = "HTTP"
  default_action {
    type = "redirect"
    redirect {
      port        = "443"
      protocol    = "HTTPS"
      status_code = "HTTP_301"
    }
  }
}

resource "aws_acm_certificate" "this" {
  count                     = local.own_zone && length(local.balanced) > 0 ? 1 : 0
  domain_name               = var.load_balancer.domain
  subject_alternative_names = [for each in setsubtract(var.services, ["tracking"]) : local.names[each]]
  validation_method         = "DNS"
  lifecycle { create_before_destroy = true }
}

locals {
  # keyed by service, because the validation names are unknown until the certificate exists
  validation_records = length(aws_acm_certificate.this) == 0 ? {} : {
    for each in local.balanced : each => one([for option in aws_acm_certificate.this[0].domain_validation_options : option if option.domain_name == local.names[each]])
  }
}

resource "aws_route53_record" "certificate" {
  for_each        = local.validation_records
  zone_id         = var.load_balancer.zone_id
  name            = each.value.resource_record_name
  type            = each.value.resource_record_type
  records         = [each.value.resource_record_value]
  ttl             = 300
  allow_overwrite = true
}

resource "aws_acm_certificate_validation" "this" {
  count                   = length(aws_acm_certificate.this)
  certificate_arn         = aws_acm_certificate.this[0].arn
  validation_record_fqdns = [for each in aws_route53_record.certificate : each.fqdn]
}

resource "aws_route53_record" "service" {
  for_each = local.own_zone ? local.balanced : []
  zone_id  = var.load_balancer.zone_id
  name     = local.names[each.key]
  type     = "A"
  alias {
    name                   = aws_lb.this[0].dns_name
    zone_id                = aws_lb.this[0].zone_id
    evaluate_target_health = true
  }
}
