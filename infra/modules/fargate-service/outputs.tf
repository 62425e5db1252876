output "service_name" {
  description = "Name of the ECS service."
  value       = aws_ecs_service.this.name
}

output "template_arn" {
  description = "Task definition that `deploy` copies."
  value       = aws_ecs_task_definition.this.arn
}
