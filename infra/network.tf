# A VPC without NAT gateways (about 33 USD a month each): tasks are in public subnets with public addresses and closed security
# groups, the database in private subnets without a route to the internet.

data "aws_availability_zones" "available" {
  count = var.network == null ? 1 : 0
  state = "available"
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

resource "aws_vpc" "this" {
  # checkov:skip=CKV2_AWS_11: flow logs are billed by the GB and rarely needed by a small team
  count                = var.network == null ? 1 : 0
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

# The default group admits traffic between its members; taking it over without rules closes it.
resource "aws_default_security_group" "closed" {
  count  = length(aws_vpc.this)
  vpc_id = aws_vpc.this[0].id
  tags   = { Name = "${var.name}-default-closed" }
}

resource "aws_internet_gateway" "this" {
  count  = length(aws_vpc.this)
  vpc_id = aws_vpc.this[0].id
  tags   = { Name = var.name }
}

resource "aws_subnet" "public" {
  count             = var.network == null ? 2 : 0
  vpc_id            = aws_vpc.this[0].id
  availability_zone = data.aws_availability_zones.available[0].names[count.index]
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, count.index)
  tags              = { Name = "${var.name}-public-${count.index}" }
}

resource "aws_subnet" "private" {
  count             = var.network == null ? 2 : 0
  vpc_id            = aws_vpc.this[0].id
  availability_zone = data.aws_availability_zones.available[0].names[count.index]
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, count.index + 8)
  tags              = { Name = "${var.name}-private-${count.index}" }
}

resource "aws_route_table" "public" {
  count  = length(aws_vpc.this)
  vpc_id = aws_vpc.this[0].id
  tags   = { Name = "${var.name}-public" }
}

resource "aws_route" "internet" {
  count                  = length(aws_vpc.this)
  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this[0].id
}

resource "aws_route_table_association" "public" {
  count          = length(aws_subnet.public)
  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public[0].id
}

# Free, and keeps traffic to S3 off the internet gateway.
resource "aws_vpc_endpoint" "s3" {
  count           = length(aws_vpc.this)
  vpc_id          = aws_vpc.this[0].id
  service_name    = "com.amazonaws.${var.region}.s3"
  route_table_ids = [aws_route_table.public[0].id]
  tags            = { Name = "${var.name}-s3" }
}

data "aws_vpc" "existing" {
  count = var.network == null ? 0 : 1
  id    = var.network.vpc_id
}

locals {
  network = {
    cidr    = var.network == null ? var.vpc_cidr : one(data.aws_vpc.existing[*].cidr_block)
    vpc_id  = var.network == null ? aws_vpc.this[0].id : var.network.vpc_id
    public  = var.network == null ? aws_subnet.public[*].id : var.network.public_subnet_ids
    private = var.network == null ? aws_subnet.private[*].id : var.network.private_subnet_ids
  }
}
