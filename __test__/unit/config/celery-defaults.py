"""Writes the settings that Celery declares, with types, defaults and old names, as JSON.

    python __test__/unit/config/celery-defaults.py > __test__/unit/config/celery-defaults.json

The settings that Celery honours without declaring them are listed below, with where they are read.
"""

import json
import sys
from datetime import timedelta

import celery
from celery.app import defaults

# setting: (default, where Celery 5.7 reads it)
UNDECLARED = {
    "result_backend_thread_safe": (False, "celery/backends/base.py"),
    "redis_backend_health_check_interval": (None, "celery/backends/redis.py"),
    "redis_backend_credential_provider": (None, "celery/backends/redis.py"),
    "redis_client_name": (None, "celery/backends/redis.py"),
    "cassandra_secure_bundle_path": (None, "celery/backends/cassandra.py"),
    "dynamodb_endpoint_url": (None, "celery/backends/dynamodb.py"),
    "firestore_project": (None, "celery/backends/gcs.py"),
    "gcs_threadpool_maxsize": (10, "celery/backends/gcs.py"),
    "override_backends": ({}, "celery/loaders/base.py"),
}
for command in ("worker", "beat", "events"):
    for option in ("logfile", "pidfile", "uid", "gid", "umask", "executable"):
        UNDECLARED[f"{command}_{option}"] = (None, "celery/bin/base.py")


def plain(value):
    if isinstance(value, timedelta):
        return value.total_seconds()
    if value == float("inf"):
        return "Infinity"
    return value


def rows():
    for key, option in defaults._OPTIONS.items():
        kind = option.type if isinstance(option.type, str) else option.type.__name__
        yield {"name": key, "type": kind, "default": plain(option.default), "old": defaults._TO_OLD_KEY[key]}


json.dump(
    {
        "celery": celery.__version__,
        "declared": sorted(rows(), key=lambda row: row["name"]),
        "undeclared": [
            {"name": key, "default": default, "read": read} for key, (default, read) in sorted(UNDECLARED.items())
        ],
    },
    sys.stdout,
    indent=2,
)
print()
