"""Executed by LocalStack inside its own process, once it listens: makes the twin's bucket, where it is not there yet."""

import os

from localstack.aws.connect import connect_to

connect_to(region_name="us-east-1").s3.create_bucket(Bucket=os.environ["BUCKET"])
