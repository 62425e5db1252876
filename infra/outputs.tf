# Read by `python -m atelier_infra` (atelier_infra/environment/stack.py).

output "name" {
  description = "Name of the environment."
  value       = var.name
}

output "region" {
  description = "AWS region."
  value       = var.region
}

output "cluster" {
  description = "ECS cluster."
  value       = aws_ecs_cluster.this.name
}

output "services" {
  description = "Services: image repository, log group, and the task definition that `deploy` copies."
  value = {
    for each in var.services : each => {
      running      = contains(local.running, each)
      service      = try(module.service[each].service_name, null)
      template_arn = try(module.service[each].template_arn, null)
      repository   = aws_ecr_repository.service[each].repository_url
      log_group    = aws_cloudwatch_log_group.service[each].name
      port         = local.ports[each]
      name         = var.load_balancer == null ? null : local.names[each]
      secret       = local.env_file ? null : aws_secretsmanager_secret.service[each].name
      secret_names = local.secret_names[each]
      environment  = sort(keys(local.definitions[each].environment))
      from_manager = sort(keys(local.definitions[each].from_database))
    }
  }
}

output "database" {
  description = "Identifier of the database instance; null if data_only."
  value       = one(aws_db_instance.this[*].identifier)
}

output "artifact_bucket" {
  description = "Bucket of the artifacts."
  value       = aws_s3_bucket.this["artifacts"].id
}

output "config_bucket" {
  description = "Bucket of the env files; null with Secrets Manager."
  value       = local.env_file ? aws_s3_bucket.this["config"].id : null
}

output "balancer" {
  description = "DNS name of the load balancer, for a CNAME record; null without one."
  value       = one(aws_lb.this[*].dns_name)
}

output "schedule" {
  description = "Start and stop times; null without a schedule."
  value       = var.schedule
}
