# Optional: one balancer, one certificate, a name per service: the domain itself is tracking, registry-api.<domain> and
# infer.<domain> are the others.

locals {
  names       = { for each in var.services : each => var.load_balancer == null ? "" : each == "tracking" ? var.load_balancer.domain : "${each}.${var.load_balancer.domain}" }
  balanced    = var.load_balancer == null ? toset([]) : local.running
  own_zone    = try(var.load_balancer.zone_id, null) != null
  certificate = local.own_zone ? one(aws_acm_certificate_validation.this[*].certificate_arn) : try(var.load_balancer.certificate_arn, null)
}

resource "aws_lb" "this" {
  # checkov:skip=CKV2_AWS_28: a web application firewall costs more than everything else here; the security group lets only named addresses in
  # checkov:skip=CKV_AWS_91: access logs need a bucket more; the services' own logs name user and path
  # checkov:skip=CKV_AWS_150: nothing is lost with it, and the name moves along
  count                      = length(local.balanced) > 0 ? 1 : 0
  name                       = var.name
  load_balancer_type         = "application"
  internal                   = false
  subnets                    = local.network.public
  security_groups            = [aws_security_group.balancer[0].id]
  drop_invalid_header_fields = true
  idle_timeout               = 600 # a large artifact pauses while S3 puts its parts together
}

resource "aws_lb_target_group" "service" {
  # checkov:skip=CKV_AWS_378: TLS ends at the balancer; behind it only its security group reaches the tasks
  for_each             = local.balanced
  name                 = "${var.name}-${each.key}"
  port                 = local.ports[each.key]
  protocol             = "HTTP"
  target_type          = "ip"
  vpc_id               = local.network.vpc_id
  deregistration_delay = 60
  health_check {
    path                = "/readyz" # a task that cannot answer requests now gets none; the container's own check ends a dead one
    matcher             = "200"
    interval            = 15
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 8 # ECS also replaces what is unhealthy here: two minutes without MLflow or its database are no reason
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
      message_body = "No service has this name."
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
  # checkov:skip=CKV_AWS_103: it only redirects to TLS
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
  # keyed by service: the names that AWS wants to see are unknown before the certificate is
  proofs = length(aws_acm_certificate.this) == 0 ? {} : {
    for each in local.balanced : each => one([for option in aws_acm_certificate.this[0].domain_validation_options : option if option.domain_name == local.names[each]])
  }
}

resource "aws_route53_record" "certificate" {
  for_each        = local.proofs
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
