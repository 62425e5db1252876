variable "name" {
  description = "Prefix of all names; two environments in one account need two names."
  type        = string
  default     = "atelier"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,17}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 19 characters, lower-case letters, digits and hyphens, starting with a letter, not ending with a hyphen; received \"${var.name}\"."
  }
}

variable "region" {
  description = "AWS region, such as eu-central-1."
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be a region's code, such as eu-central-1; received \"${var.region}\"."
  }
}

variable "tags" {
  description = "Tags on all resources, in addition to project, environment and managed-by."
  type        = map(string)
  default     = {}
}

variable "services" {
  description = "Which services run on AWS."
  type        = set(string)
  default     = ["tracking"]
  validation {
    condition     = contains(var.services, "tracking") && length(setsubtract(var.services, ["tracking", "registry-api", "infer"])) == 0
    error_message = "services must contain tracking and may contain registry-api and infer; received ${jsonencode(var.services)}."
  }
}

variable "sizes" {
  description = "CPU units and memory of tasks that differ from sizes.json."
  type        = map(object({ cpu = number, memory_mib = number }))
  default     = {}
}

variable "secrets" {
  description = "Where tasks read secrets: secrets-manager, or env-file (an object in S3)."
  type        = string
  default     = "secrets-manager"
  validation {
    condition     = contains(["secrets-manager", "env-file"], var.secrets)
    error_message = "secrets must be secrets-manager or env-file; received \"${var.secrets}\"."
  }
}

variable "allowed_cidrs" {
  description = "IPv4 ranges that may connect to the services, such as [\"203.0.113.7/32\"]."
  type        = list(string)
  validation {
    condition     = length(var.allowed_cidrs) > 0 && alltrue([for each in var.allowed_cidrs : can(cidrhost(each, 0)) && !strcontains(each, ":")])
    error_message = "allowed_cidrs must list IPv4 ranges such as 203.0.113.7/32; received ${jsonencode(var.allowed_cidrs)}."
  }
}

variable "network" {
  description = "An existing VPC; null creates one. Public subnets need a route to the internet; private ones hold the database."
  type = object({
    vpc_id             = string
    public_subnet_ids  = list(string)
    private_subnet_ids = list(string)
  })
  default = null
  validation {
    condition     = var.network == null ? true : length(var.network.private_subnet_ids) >= 2 && length(var.network.public_subnet_ids) >= 1
    error_message = "network needs at least two private subnets in different zones (a rule of RDS) and one public subnet; received ${jsonencode(var.network)}."
  }
}

variable "vpc_cidr" {
  description = "Address range of the created VPC; /16 to /22."
  type        = string
  default     = "10.20.0.0/16"
  validation {
    condition     = can(cidrsubnet(var.vpc_cidr, 4, 0)) && try(tonumber(split("/", var.vpc_cidr)[1]), 0) >= 16 && try(tonumber(split("/", var.vpc_cidr)[1]), 99) <= 22
    error_message = "vpc_cidr must be an IPv4 range between /16 and /22; received \"${var.vpc_cidr}\"."
  }
}

variable "database" {
  description = "The PostgreSQL instance."
  type = object({
    instance_class  = optional(string, "db.t4g.micro")
    storage_gib     = optional(number, 20)
    max_storage_gib = optional(number, 100)
    backup_days     = optional(number, 7)
    multi_az        = optional(bool, false)
  })
  default  = {}
  nullable = false
  validation {
    condition     = var.database.backup_days >= 1 && var.database.backup_days <= 35
    error_message = "database.backup_days must be between 1 and 35; received ${var.database.backup_days}."
  }
  validation {
    condition     = var.database.storage_gib >= 20 && var.database.max_storage_gib > var.database.storage_gib
    error_message = "database.storage_gib must be at least 20 (the minimum of gp3) and max_storage_gib larger; received ${var.database.storage_gib} and ${var.database.max_storage_gib}."
  }
}

variable "database_ca_file" {
  description = "PEM file of Amazon's RDS certificates of this region; with it the services verify the server (sslmode verify-full). See docs/explanation/aws-secrets.md."
  type        = string
  default     = null
  validation {
    condition     = var.database_ca_file == null ? true : strcontains(try(file(var.database_ca_file), ""), "-----BEGIN CERTIFICATE-----") && length(try(file(var.database_ca_file), "")) < 20000
    error_message = "database_ca_file must be a PEM file of at most 20,000 characters, such as the bundle of one region; received ${jsonencode(var.database_ca_file)}. The bundle of all regions is too long for a task definition."
  }
}

variable "database_snapshot" {
  description = "Snapshot to create the database from; used at creation only."
  type        = string
  default     = null
}

variable "unlock_database" {
  description = "Whether the database may be deleted, after a final snapshot. Set by `atelier_infra destroy` and `restore`."
  type        = bool
  default     = false
}

variable "db_password" {
  description = "Database password with secrets = \"env-file\"; atelier_infra reads it from the env file. Ephemeral: in no state and no plan."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true
}

variable "db_password_version" {
  description = "Increase it to set a new database password."
  type        = number
  default     = 1
}

variable "load_balancer" {
  description = "A domain name with TLS. With zone_id (Route 53), certificate and DNS records are created; with certificate_arn you create the DNS records."
  type = object({
    domain          = string
    zone_id         = optional(string)
    certificate_arn = optional(string)
  })
  default = null
  validation {
    condition     = var.load_balancer == null ? true : (var.load_balancer.zone_id != null) != (var.load_balancer.certificate_arn != null)
    error_message = "load_balancer needs exactly one of zone_id and certificate_arn; received ${jsonencode(var.load_balancer)}."
  }
  validation {
    condition     = var.load_balancer == null || var.network == null ? true : length(var.network.public_subnet_ids) >= 2
    error_message = "a load balancer needs two public subnets in different zones; received ${jsonencode(var.network)}."
  }
}

variable "schedule" {
  description = "Start and stop times, for example { start = \"08:00\", stop = \"19:00\", days = \"MON-FRI\", timezone = \"Europe/Berlin\" }. The database starts 15 minutes before the services and stops 5 minutes after them; stopping happens every day."
  type = object({
    start    = string
    stop     = string
    days     = optional(string, "MON-FRI")
    timezone = optional(string, "UTC")
  })
  default = null
  validation {
    condition     = var.schedule == null ? true : can(regex("^(0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]$", var.schedule.start)) && try(tonumber(replace(var.schedule.start, ":", "")), -1) >= 15
    error_message = "schedule.start must be a time from 00:15 to 23:59, since the database starts 15 minutes earlier; received ${jsonencode(var.schedule)}."
  }
  validation {
    condition     = var.schedule == null ? true : can(regex("^(0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]$", var.schedule.stop)) && try(tonumber(replace(var.schedule.stop, ":", "")), 9999) <= 2354
    error_message = "schedule.stop must be a time from 00:00 to 23:54, since the database stops 5 minutes later; received ${jsonencode(var.schedule)}."
  }
}

variable "budget" {
  description = "An email when the account's monthly cost is forecast to exceed a sum, and when 80 % are spent: { usd_a_month = 50, email = \"ana@example.org\" }."
  type        = object({ usd_a_month = number, email = string })
  default     = null
  validation {
    condition     = var.budget == null ? true : try(var.budget.usd_a_month, 0) > 0 && strcontains(try(var.budget.email, ""), "@")
    error_message = "budget needs a sum above 0 and an email address; received ${jsonencode(var.budget)}."
  }
}

variable "infer_model" {
  description = "Registered model whose champion infer serves."
  type        = string
  default     = "sketch"
}

variable "log_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 30
}

variable "old_version_days" {
  description = "Days that overwritten and deleted artifacts are kept."
  type        = number
  default     = 30
}

variable "anchor_retention_days" {
  description = "Days that nobody can delete or change the hashes of registry-api's decisions in a bucket of their own; null: no such bucket."
  type        = number
  default     = null
  validation {
    condition     = var.anchor_retention_days == null ? true : var.anchor_retention_days >= 1 && var.anchor_retention_days <= 36500 && floor(var.anchor_retention_days) == var.anchor_retention_days && contains(var.services, "registry-api")
    error_message = "anchor_retention_days must be a whole number from 1 to 36500, and needs registry-api among services; received ${jsonencode(var.anchor_retention_days)}."
  }
}

variable "data_only" {
  description = "Whether to remove what is billed by the hour and keep artifacts, a database snapshot, secrets and images. Set by `atelier_infra destroy`."
  type        = bool
  default     = false
}

variable "protect_data" {
  description = "Whether to protect the database, its backups and non-empty buckets from deletion. Disabled by `atelier_infra destroy --data`, after confirmation."
  type        = bool
  default     = true
}

variable "final_snapshot" {
  description = "Suffix of the name of the final snapshot of a deleted database. Set by `atelier_infra destroy` to the time."
  type        = string
  default     = "last"
}
