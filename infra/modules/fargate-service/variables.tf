variable "name" {
  description = "Name of the environment; prefix of names."
  type        = string
}

variable "service" {
  description = "Name of the service; also of the container and the ECS service."
  type        = string
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "partition" {
  description = "AWS partition, for ARNs."
  type        = string
}

variable "account" {
  description = "AWS account."
  type        = string
}

variable "cluster_arn" {
  description = "ECS cluster."
  type        = string
}

variable "repository_arn" {
  description = "ECR repository that the execution role may pull from."
  type        = string
}

variable "repository_url" {
  description = "URL of the ECR repository."
  type        = string
}

variable "log_group_name" {
  description = "CloudWatch log group."
  type        = string
}

variable "log_group_arn" {
  description = "ARN of the CloudWatch log group."
  type        = string
}

variable "port" {
  description = "Port that the container listens on."
  type        = number
}

variable "size" {
  description = "CPU units (1024 are one core) and memory of the task."
  type        = object({ cpu = number, memory_mib = number })
  validation {
    condition = contains(lookup({
      "256"  = [512, 1024, 2048]
      "512"  = range(1024, 4097, 1024)
      "1024" = range(2048, 8193, 1024)
      "2048" = range(4096, 16385, 1024)
      "4096" = range(8192, 30721, 1024)
      "8192" = range(16384, 61441, 4096)
    }, tostring(var.size.cpu), []), var.size.memory_mib)
    error_message = "size must be one that Fargate offers; received ${var.size.cpu} CPU units with ${var.size.memory_mib} MiB; use 256 with 512, 1024 or 2048; 512 with 1024 to 4096; 1024 with 2048 to 8192; 2048 with 4096 to 16384; 4096 with 8192 to 30720 (steps of 1024)."
  }
}

variable "subnet_ids" {
  description = "Subnets with a route to the internet."
  type        = list(string)
}

variable "security_group_id" {
  description = "Security group of the tasks."
  type        = string
}

variable "environment" {
  description = "Environment variables that are not secret."
  type        = map(string)
}

variable "secrets" {
  description = "Environment variable → ARN in Secrets Manager, with the JSON key if there is one."
  type        = map(string)
}

variable "secret_arns" {
  description = "ARNs of the secrets that the execution role may read."
  type        = list(string)
}

variable "env_file" {
  description = "S3 object with secrets that ECS reads when a task starts; null with Secrets Manager."
  type        = object({ bucket_arn = string, key = string })
}

variable "start_command" {
  description = "Shell command that replaces the image's entry point; the task's command becomes its arguments. Null keeps the entry point."
  type        = string
}

variable "has_init" {
  description = "Whether the image or the start command has its own init process."
  type        = bool
}

variable "task_policy" {
  description = "Policy document of the task role; null for no permissions."
  type        = object({ json = string })
}

variable "stop_s" {
  description = "Seconds from SIGTERM to SIGKILL; Fargate allows 120."
  type        = number
}

# Objects instead of ARNs, because Terraform must know whether there is one before it knows the ARN.

variable "balancer" {
  description = "Target group of the load balancer, or null."
  type        = object({ target_group_arn = string })
}

variable "discovery" {
  description = "Cloud Map service that the tasks register with, or null."
  type        = object({ arn = string })
}
