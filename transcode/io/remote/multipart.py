"""Objects of S3 and its like, written by multipart uploads: parts in any order, by boto3.

Credentials, region and endpoint are those that boto3 finds. An upload that neither ends nor is dropped, as of
a killed process, leaves parts that are paid for until a rule of the bucket's lifecycle removes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ...core.paths import unsigned
from ...errors import TranscodeError
from .address import Address

__all__ = ["Multipart"]

_PART = 8 << 20
_MOST_PARTS = 9000
"""S3 takes 10,000 (Amazon S3 User Guide, "multipart upload limits"), each but the last of 5 MiB at least."""


class Multipart:
    """A prefix of a bucket.

    Args:
        prefix: of it.
    """

    ordered = False
    copies = 1

    def __init__(self, prefix: Address) -> None:
        self._prefix = prefix
        import boto3
        from botocore.config import Config

        with _told(str(prefix)):
            retries = {"max_attempts": 8, "mode": "standard"}
            self._client: Any = boto3.client("s3", config=Config(retries=retries, max_pool_connections=16))

    def part(self, size: int) -> int:
        """At most as many as S3 takes."""
        least = -(-size // _MOST_PARTS)
        return max(_PART, -(-least // (1 << 20)) << 20)

    def existing(self) -> set[str]:
        """See :class:`.target.Target`."""
        start = f"{self._prefix.key.rstrip('/')}/".lstrip("/")
        names: set[str] = set()
        with _told(str(self._prefix)):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._prefix.authority, Prefix=start, Delimiter="/"
            )
            for page in pages:
                names |= {item["Key"][len(start) :] for item in page.get("Contents", ())}
        return names

    def unfinished(self) -> int:
        """See :class:`.target.Target`. Who may write may not always list that: then none."""
        start = f"{self._prefix.key.rstrip('/')}/".lstrip("/")
        with suppress(TranscodeError), _told(str(self._prefix)):
            answer = self._client.list_multipart_uploads(Bucket=self._prefix.authority, Prefix=start)
            return len(answer.get("Uploads", ()))
        return 0

    def begin(self, name: str, size: int) -> _Object:
        """See :class:`.target.Target`."""
        return _Object(self._client, self._prefix.below(name), size)

    def put(self, name: str, content: bytes) -> None:
        """See :class:`.target.Target`."""
        where = self._prefix.below(name)
        with _told(str(where)):
            self._client.put_object(Bucket=where.authority, Key=where.key, Body=content)

    def commit(self) -> None:
        """Each object has appeared when it was placed."""


class _Object:
    def __init__(self, client: Any, where: Address, size: int) -> None:
        self._client = client
        self._where = where
        self._size = size
        self._names = {"Bucket": where.authority, "Key": where.key}
        self._parts: dict[int, str] = {}
        with _told(str(where)):
            self._id: str | None = client.create_multipart_upload(**self._names)["UploadId"]

    def send(self, number: int, data: bytearray) -> None:
        with _told(str(self._where)):
            answer = self._client.upload_part(
                **self._names, UploadId=self._id, PartNumber=number + 1, Body=data
            )
        self._parts[number] = answer["ETag"]

    def place(self) -> None:
        parts = [{"PartNumber": number + 1, "ETag": tag} for number, tag in sorted(self._parts.items())]
        with _told(str(self._where)):
            self._client.complete_multipart_upload(
                **self._names, UploadId=self._id, MultipartUpload={"Parts": parts}
            )
            self._id = None
            size = self._client.head_object(**self._names)["ContentLength"]
        if size != self._size:
            raise TranscodeError(
                f"has {size} bytes after {self._size} were sent", file=str(self._where), hint="write it again"
            )

    def drop(self) -> None:
        if self._id is not None:
            with suppress(TranscodeError), _told(str(self._where)):
                self._client.abort_multipart_upload(**self._names, UploadId=self._id)
            self._id = None


@contextmanager
def _told(url: str) -> Iterator[None]:
    """The errors of boto3 as ours."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        answer = error.response.get("Error", {})
        what = f"{answer.get('Code', 'an error')}: {unsigned(str(answer.get('Message', '')))}".rstrip(": ")
        raise TranscodeError(f"the store answers {what}", file=url) from None
    except BotoCoreError as error:
        raise TranscodeError(f"cannot be written: {unsigned(str(error))}", file=url) from None
