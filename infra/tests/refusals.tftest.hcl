# Each validation refuses an invalid value.

variables {
  region        = "eu-central-1"
  allowed_cidrs = ["203.0.113.7/32"]
}

run "name" {
  command = plan
  variables {
    name = "My_Stack"
  }
  expect_failures = [var.name]
}

run "region" {
  command = plan
  variables {
    region = "Frankfurt"
  }
  expect_failures = [var.region]
}

run "services_without_tracking" {
  command = plan
  variables {
    services = ["infer"]
  }
  expect_failures = [var.services]
}

run "unknown_service" {
  command = plan
  variables {
    services = ["tracking", "trainer"]
  }
  expect_failures = [var.services]
}

run "secrets" {
  command = plan
  variables {
    secrets = "paper"
  }
  expect_failures = [var.secrets]
}

run "no_allowed_cidrs" {
  command = plan
  variables {
    allowed_cidrs = []
  }
  expect_failures = [var.allowed_cidrs]
}

run "an_allowed_address_without_a_mask" {
  command = plan
  variables {
    allowed_cidrs = ["203.0.113.7"]
  }
  expect_failures = [var.allowed_cidrs]
}

run "one_private_subnet" {
  command = plan
  variables {
    network = { vpc_id = "vpc-1", public_subnet_ids = ["subnet-1"], private_subnet_ids = ["subnet-2"] }
  }
  expect_failures = [var.network]
}

run "a_small_vpc" {
  command = plan
  variables {
    vpc_cidr = "10.0.0.0/24"
  }
  expect_failures = [var.vpc_cidr]
}

run "no_backups" {
  command = plan
  variables {
    database = { backup_days = 0 }
  }
  expect_failures = [var.database]
}

run "too_little_storage" {
  command = plan
  variables {
    database = { storage_gib = 5 }
  }
  expect_failures = [var.database]
}

run "a_name_without_a_certificate" {
  command = plan
  variables {
    load_balancer = { domain = "draw.example.org" }
  }
  expect_failures = [var.load_balancer]
}

run "two_certificates" {
  command = plan
  variables {
    load_balancer = { domain = "draw.example.org", zone_id = "Z1", certificate_arn = "arn:aws:acm:1" }
  }
  expect_failures = [var.load_balancer]
}

run "a_start_too_early" {
  command = plan
  variables {
    schedule = { start = "00:10", stop = "19:00" }
  }
  expect_failures = [var.schedule]
}

run "a_stop_too_late" {
  command = plan
  variables {
    schedule = { start = "08:00", stop = "23:55" }
  }
  expect_failures = [var.schedule]
}

run "an_invalid_time" {
  command = plan
  variables {
    schedule = { start = "8 am", stop = "19:00" }
  }
  expect_failures = [var.schedule]
}

run "a_budget_without_an_address" {
  command = plan
  variables {
    budget = { usd_a_month = 50, email = "ana" }
  }
  expect_failures = [var.budget]
}

run "env_file_without_a_password" {
  command = plan
  variables {
    secrets = "env-file"
  }
  expect_failures = [aws_db_instance.this]
}

run "an_invalid_ca_file" {
  command = plan
  variables {
    database_ca_file = "main.tf"
  }
  expect_failures = [var.database_ca_file]
}

run "a_missing_ca_file" {
  command = plan
  variables {
    database_ca_file = "nowhere.pem"
  }
  expect_failures = [var.database_ca_file]
}
