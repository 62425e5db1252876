"""Run by LocalStack in its process when it is ready: creates the twin's bucket if it does not exist."""

import os

from localstack.aws.connect import connect_to

connect_to(region_name="us-east-1").s3.create_bucket(Bucket=os.environ["BUCKET"])
