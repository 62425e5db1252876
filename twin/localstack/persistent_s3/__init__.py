"""LocalStack's S3 with buckets and objects that survive restarts; loaded into LocalStack by a start hook."""
