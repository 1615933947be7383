"""bucket.py create|pull|push: make the bucket of artifacts; copy it to the folder of backups, or back from there.

The store and its keys are those of the server's environment.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

START_SEC = 120


def create(client: Any, bucket: str) -> str:
    """Make the bucket; the store may still be starting, which is no error of ours for a while."""
    deadline = time.monotonic() + START_SEC
    while True:
        try:
            if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=bucket)
            return f"bucket {bucket} is there"
        except BotoCoreError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def objects(client: Any, bucket: str) -> dict[str, tuple[int, float]]:
    """Size and time of each object."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = (item for page in pages for item in page.get("Contents", []))
    return {item["Key"]: (item["Size"], item["LastModified"].timestamp()) for item in found}


def pull(client: Any, bucket: str) -> str:
    """Copy what is new or changed, and take away what is gone, so that the folder is as the bucket is."""
    folder, copied = _folder(), 0
    there = objects(client, bucket)
    for key, (size, changed) in there.items():
        path = folder / key
        if path.is_file() and (path.stat().st_size, path.stat().st_mtime) == (size, changed):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        client.download_file(bucket, key, str(part))
        os.utime(part, (changed, changed))
        part.replace(path)
        copied += 1
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(folder).as_posix() not in there:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return f"{folder} holds {len(there)} objects of {bucket}; {copied} were copied"


def push(client: Any, bucket: str) -> str:
    """Copy the folder's files into the bucket; what else is in there stays."""
    folder = _folder()
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    create(client, bucket)
    for path in files:
        client.upload_file(str(path), bucket, path.relative_to(folder).as_posix())
    return f"{len(files)} files of {folder} are in {bucket}"


def _folder() -> Path:
    folder = Path(os.environ["BACKUPS_FOLDER"], "bucket")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


VERBS: dict[str, Callable[[Any, str], str]] = {"create": create, "pull": pull, "push": push}


def main(verb: str) -> str:
    """Do it; gives what was done."""
    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    return VERBS[verb](client, os.environ["S3_BUCKET"])


if __name__ == "__main__":
    if sys.argv[1:] not in ([verb] for verb in VERBS):
        sys.exit(f"error: bucket.py takes one of {', '.join(VERBS)}")
    try:
        print(main(sys.argv[1]))
    except (BotoCoreError, ClientError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
