"""boto3 clients of one account and region; translates botocore's errors into AwsError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from atelier_infra.errors import AwsError

LOGIN = "log in first: `aws sso login`, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
INVALID = ("InvalidClientTokenId", "UnrecognizedClientException", "AuthFailure", "SignatureDoesNotMatch", "InvalidAccessKeyId")
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedAccess")


class Aws:
    """Clients are created on first use and kept."""

    def __init__(self, region: str | None) -> None:
        self.region = region
        self._session: boto3.Session | None = None
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:  # boto3 creates client classes at run time; they have no type
        if service not in self._clients:
            with translate_errors(self.region):
                self._session = self._session or boto3.Session(region_name=self.region)
                self._clients[service] = self._session.client(
                    service, config=Config(retries={"mode": "standard", "max_attempts": 4})
                )
        return self._clients[service]

    def account(self) -> str:
        """The account id; the cheapest call that proves the credentials.

        Raises:
            AwsError: there are no credentials, or AWS rejects them.
        """
        with translate_errors(self.region):
            return str(self.client("sts").get_caller_identity()["Account"])


@contextmanager
def translate_errors(region: str | None) -> Iterator[None]:
    """Turns botocore's exceptions into `AwsError`."""
    try:
        yield
    except ClientError as error:
        raise AwsError(_client_error_message(error, region)) from error
    except ProfileNotFound as error:
        raise AwsError(
            f"AWS_PROFILE must name a profile of ~/.aws/config: {error}; `aws configure list-profiles` lists them"
        ) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AwsError(f"no complete AWS credentials were found ({error}); {LOGIN}") from error
    except (SSOError, TokenRetrievalError) as error:
        raise AwsError(f"the AWS session has ended ({error}); {LOGIN}") from error
    except NoRegionError as error:
        raise AwsError("no AWS region is set; run `python -m atelier_infra init`, or set AWS_REGION") from error
    except EndpointConnectionError as error:
        raise AwsError(
            f"AWS does not respond in region {region}: {error}; check the region in terraform.tfvars and the network"
        ) from error
    except BotoCoreError as error:
        raise AwsError(f"the call to AWS failed: {error}") from error


def _client_error_message(error: ClientError, region: str | None) -> str:
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "") or str(error)
    call = error.operation_name
    if code in EXPIRED:
        return f"the AWS session has expired ({call}: {message}); {LOGIN}"
    if code in INVALID:
        return (
            f"AWS does not accept these credentials in region {region} ({call}: {message}); "
            f"check that the region is enabled for the account; if it is, {LOGIN}"
        )
    if code in DENIED:
        return (
            f"these credentials may not call {call}: {message}; request the permission, or set AWS_PROFILE to another profile"
        )
    return f"AWS refused {call} in region {region}: {message} ({code})"
