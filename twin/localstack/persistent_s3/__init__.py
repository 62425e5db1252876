"""LocalStack's own S3, with objects and buckets that outlive the container. Runs inside LocalStack, as its start hook."""
