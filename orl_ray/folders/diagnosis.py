"""What an error of a disk or a storage service means, and what to do about it, for people."""

import errno
import os

from orl_ray.folders.backend import StorageUnavailableError

_PERMISSIONS = (
    "s3:ListBucket, s3:GetObject, for the store s3:PutObject and s3:DeleteObject, and to clean it "
    "s3:ListBucketMultipartUploads and s3:AbortMultipartUpload"
)
_REGION = "The bucket lies in another region: set AWS_DEFAULT_REGION to it"
# What a message contains -> what to do. The first that fits is told.
_ADVICE = {
    "no such bucket": "Create it, or mend its name",
    "InvalidAccessKeyId": "The credentials are wrong: check AWS_ACCESS_KEY_ID, and whether they are for this service",
    "SignatureDoesNotMatch": "The credentials are wrong: check AWS_SECRET_ACCESS_KEY",
    "AuthFailure": "The credentials are wrong: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "InvalidToken": "The credentials are wrong: check AWS_SESSION_TOKEN",
    "ExpiredToken": "The credentials have expired: get new ones, for the workers too",
    "AccessDenied": f"The credentials are known, but lack a permission: {_PERMISSIONS}",
    "RequestTimeTooSkewed": "Set this machine's clock",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraint": _REGION,
    "NotImplemented": "Leases need a service with conditional puts (If-None-Match)",
    "Invalid endpoint": "Mend AWS_ENDPOINT_URL",
    "SSL": "Check the certificate, AWS_CA_BUNDLE, and whether AWS_ENDPOINT_URL begins with http:// or https:// rightly",
    " 401 ": "The credentials are missing or wrong",
    " 403 ": "The credentials are wrong, or lack a permission",
    "Read-only file system": "Mount it for writing",
    "No space left": "Make room",
}


def explain(error: Exception, place: str) -> str:
    """Say what an error means that a folder raised, and what to do.

    Args:
        error: the error.
        place: the folder's URI or path, which is not repeated.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if text.startswith(place):  # or with a file in it
        text = text.partition(": ")[2] or text
    advice = next((advice for sign, advice in _ADVICE.items() if sign in f" {text} "), "")
    if not advice and isinstance(error, StorageUnavailableError):
        advice = f"Is {_endpoint(place)} right, is there a route to it, is it up?"
    elif not advice and isinstance(error, PermissionError) and "://" not in place:
        advice = "Run as a user who may, or change the owner or the mode"
    elif not advice and isinstance(error, OSError) and error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
        advice = "Leases need hard links: take another file system"
    return f"{text}. {advice}" if advice else text


def _endpoint(place: str) -> str:
    names = ("STORAGE_EMULATOR_HOST",) if place.startswith("gs://") else ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    set_by = next((name for name in names if os.environ.get(name)), "")
    return f"{set_by}={_without_password(os.environ[set_by])}" if set_by else "the region"


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
