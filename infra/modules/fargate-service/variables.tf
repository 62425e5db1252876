variable "name" {
  description = "The environment's name, prefix of roles."
  type        = string
}

variable "service" {
  description = "The service's name: container, ECS service and task family are called after it."
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
  description = "Its address."
  type        = string
}

variable "log_group_name" {
  description = "CloudWatch log group."
  type        = string
}

variable "log_group_arn" {
  description = "Its ARN."
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
    error_message = "Fargate has no task of ${var.size.cpu} CPU units with ${var.size.memory_mib} MiB: take 256 with 512, 1024 or 2048; 512 with 1024 to 4096; 1024 with 2048 to 8192; 2048 with 4096 to 16384; 4096 with 8192 to 30720 (steps of 1024)."
  }
}

variable "subnet_ids" {
  description = "Subnets with a route to the internet."
  type        = list(string)
}

variable "security_group_id" {
  description = "The tasks' security group."
  type        = string
}

variable "environment" {
  description = "Settings that are no secrets."
  type        = map(string)
}

variable "secrets" {
  description = "Environment variable → ARN in Secrets Manager, with the JSON member where there is one."
  type        = map(string)
}

variable "secret_arns" {
  description = "The secrets that the execution role may read."
  type        = list(string)
}

variable "env_file" {
  description = "The one object with secrets that ECS reads at task start; null without it."
  type        = object({ bucket_arn = string, key = string })
}

variable "start_command" {
  description = "Shell line in place of the image's entry point; null keeps that. The command's words are its arguments."
  type        = string
}

variable "brings_init" {
  description = "Whether the image, or the start command, runs an init process of its own."
  type        = bool
}

variable "task_policy" {
  description = "What the service itself may do in AWS, as a policy document; null: nothing."
  type        = object({ json = string })
}

variable "stop_s" {
  description = "Seconds from SIGTERM to SIGKILL; Fargate allows 120."
  type        = number
}

# Objects, not bare ARNs: whether one is given has to be known before its ARN is.

variable "balancer" {
  description = "Target group of the load balancer, or null."
  type        = object({ target_group_arn = string })
}

variable "discovery" {
  description = "Cloud Map service that the tasks register with, or null."
  type        = object({ arn = string })
}
