# The plan with the required variables only, and with each optional one.

variables {
  region        = "eu-central-1"
  allowed_cidrs = ["203.0.113.7/32"]
}

run "only_what_is_needed" {
  command = plan

  assert {
    condition     = length(aws_vpc.this) == 1 && length(aws_subnet.public) == 2 && length(aws_subnet.private) == 2
    error_message = "a VPC with two public and two private subnets must be created"
  }
  assert {
    condition     = length(aws_lb.this) == 0 && length(aws_scheduler_schedule.this) == 0 && length(aws_service_discovery_private_dns_namespace.this) == 0 && length(aws_service_discovery_service.service) == 0
    error_message = "load balancer, schedule and DNS zone cost money and must be created on request only"
  }
  assert {
    condition     = keys(module.service) == ["tracking"]
    error_message = "only tracking must run"
  }
  assert {
    condition     = aws_db_instance.this[0].publicly_accessible == false && aws_db_instance.this[0].storage_encrypted && aws_db_instance.this[0].deletion_protection
    error_message = "the database must be private, encrypted and protected"
  }
  assert {
    condition     = length(aws_s3_bucket.this) == 1 && aws_s3_bucket.this["artifacts"].force_destroy == false
    error_message = "there must be one bucket, which cannot be deleted unless it is empty"
  }
}

run "env_files_have_their_own_bucket" {
  command = plan
  variables {
    secrets     = "env-file"
    db_password = "only-for-this-plan"
  }

  assert {
    condition     = length(aws_s3_bucket.this) == 2 && length(aws_secretsmanager_secret.service) == 0 && length(aws_secretsmanager_secret.database) == 0
    error_message = "there must be a bucket for env files and no secrets"
  }
}

run "an_existing_vpc_is_used" {
  command = plan
  variables {
    # the data source is overridden below
    network = { vpc_id = "vpc-00000000", public_subnet_ids = ["subnet-1"], private_subnet_ids = ["subnet-2", "subnet-3"] }
  }
  override_data {
    target = data.aws_vpc.existing[0]
    values = { cidr_block = "172.31.0.0/16" }
  }

  assert {
    condition     = length(aws_vpc.this) == 0 && length(aws_internet_gateway.this) == 0 && length(aws_subnet.private) == 0
    error_message = "no network must be created"
  }
  assert {
    condition     = aws_db_subnet_group.this.subnet_ids == toset(["subnet-2", "subnet-3"])
    error_message = "the database must be in the given private subnets"
  }
}

run "the_schedule_starts_the_database_first_and_stops_every_day" {
  command = plan
  variables {
    schedule = { start = "08:00", stop = "23:30", days = "MON-FRI", timezone = "Europe/Berlin" }
  }

  assert {
    condition = { for name, each in aws_scheduler_schedule.this : name => each.schedule_expression } == {
      database-start = "cron(45 7 ? * MON-FRI *)"
      database-stop  = "cron(35 23 * * ? *)"
      tracking-start = "cron(0 8 ? * MON-FRI *)"
      tracking-stop  = "cron(30 23 * * ? *)"
    }
    error_message = "the database must start 15 minutes before the services and stop 5 minutes after them, and stop every day"
  }
  assert {
    condition     = strcontains(aws_scheduler_schedule.this["tracking-stop"].target[0].input, "\"DesiredCount\":0")
    error_message = "DesiredCount must be a number"
  }
  assert {
    condition     = alltrue([for each in aws_scheduler_schedule.this : each.schedule_expression_timezone == "Europe/Berlin"])
    error_message = "times must be in the given time zone"
  }
}

run "a_load_balancer_has_one_name_per_service" {
  command = plan
  variables {
    services      = ["tracking", "registry-api", "infer"]
    load_balancer = { domain = "draw.example.org", zone_id = "Z123" }
  }

  assert {
    condition = { for name, each in aws_lb_listener_rule.service : name => one(one(each.condition).host_header).values } == {
      tracking     = toset(["draw.example.org"])
      registry-api = toset(["registry-api.draw.example.org"])
      infer        = toset(["infer.draw.example.org"])
    }
    error_message = "each service must have its own name"
  }
  assert {
    condition     = aws_lb_listener.http[0].default_action[0].type == "redirect" && aws_lb_listener.https[0].protocol == "HTTPS"
    error_message = "HTTP must only redirect to HTTPS"
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.service_from_outside) == 0
    error_message = "tasks must accept the load balancer only"
  }
}

run "data_only_removes_what_is_billed_by_the_hour" {
  command = plan
  variables {
    services  = ["tracking", "infer"]
    schedule  = { start = "08:00", stop = "18:00" }
    data_only = true
  }

  assert {
    condition     = length(module.service) == 0 && length(aws_db_instance.this) == 0 && length(aws_scheduler_schedule.this) == 0
    error_message = "nothing that is billed by the hour must be left"
  }
  assert {
    condition     = length(aws_s3_bucket.this) == 1 && length(aws_secretsmanager_secret.database) == 1 && length(aws_ecr_repository.service) == 2
    error_message = "artifacts, secrets and images must be kept"
  }
}

run "a_budget_warns_before_and_after" {
  command = plan
  variables {
    budget = { usd_a_month = 50, email = "ana@example.org" }
  }

  assert {
    condition     = aws_budgets_budget.this[0].limit_amount == "50" && length(aws_budgets_budget.this[0].notification) == 2
    error_message = "there must be one notification of the forecast and one of the actual cost"
  }
}
