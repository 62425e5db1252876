# Optional: a bucket for the hashes of registry-api's decisions. Object lock in compliance mode lets nobody delete or change a version before
# its retention ends, so `destroy` cannot remove the bucket until then: take it out of the state first (README, "Anchors").
locals {
  anchor            = var.anchor_retention_days != null
  anchor_bucket     = "${var.name}-anchor-${local.account}-${var.region}"
  anchor_bucket_arn = "arn:${data.aws_partition.current.partition}:s3:::${local.anchor_bucket}"
}

resource "aws_s3_bucket" "anchor" {
  # checkov:skip=CKV_AWS_144: the anchor is a copy itself
  # checkov:skip=CKV_AWS_145: SSE-S3 encrypts it; hashes are no secret
  # checkov:skip=CKV_AWS_18: access logs need a bucket more
  # checkov:skip=CKV2_AWS_61: nothing expires; a hash takes a hundred bytes
  # checkov:skip=CKV2_AWS_62: nothing listens to events
  count               = local.anchor ? 1 : 0
  bucket              = local.anchor_bucket
  object_lock_enabled = true
  force_destroy       = false
}

resource "aws_s3_bucket_versioning" "anchor" {
  count  = local.anchor ? 1 : 0
  bucket = aws_s3_bucket.anchor[0].id
  versioning_configuration { status = "Enabled" }
}

resource "aws_s3_bucket_object_lock_configuration" "anchor" {
  count  = local.anchor ? 1 : 0
  bucket = aws_s3_bucket.anchor[0].id
  rule {
    default_retention {
      mode = "COMPLIANCE"
      days = var.anchor_retention_days
    }
  }
  depends_on = [aws_s3_bucket_versioning.anchor]
}

resource "aws_s3_bucket_public_access_block" "anchor" {
  count                   = local.anchor ? 1 : 0
  bucket                  = aws_s3_bucket.anchor[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "anchor" {
  count  = local.anchor ? 1 : 0
  bucket = aws_s3_bucket.anchor[0].id
  rule { object_ownership = "BucketOwnerEnforced" }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "anchor" {
  count  = local.anchor ? 1 : 0
  bucket = aws_s3_bucket.anchor[0].id
  rule {
    apply_server_side_encryption_by_default { sse_algorithm = "AES256" }
  }
}

resource "aws_s3_bucket_policy" "anchor" {
  count      = local.anchor ? 1 : 0
  bucket     = aws_s3_bucket.anchor[0].id
  policy     = data.aws_iam_policy_document.tls_only["anchor"].json
  depends_on = [aws_s3_bucket_public_access_block.anchor]
}

# What registry-api does there. It can neither delete a version nor change its retention.
data "aws_iam_policy_document" "anchor" {
  count = local.anchor ? 1 : 0
  statement {
    sid       = "ListAnchors"
    actions   = ["s3:ListBucket", "s3:ListBucketVersions"]
    resources = [local.anchor_bucket_arn]
  }
  statement {
    sid       = "AddAndReadAnchors"
    actions   = ["s3:PutObject", "s3:GetObject", "s3:GetObjectVersion"]
    resources = ["${local.anchor_bucket_arn}/chain/*"]
  }
}
