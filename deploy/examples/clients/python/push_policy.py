#!/usr/bin/env python3
"""Pushes policies to an Isthmus control plane and waits until every proxy that they concern has them.

    isthmus login
    python3 -m grpc_tools.protoc -I proto/proto --python_out=gen --grpc_python_out=gen proto/proto/isthmus/*/v1/*.proto
    PYTHONPATH=gen ./push_policy.py policies.yaml
"""

import argparse
import os
import sys

import grpc

from isthmus.admin.v1 import admin_pb2, admin_pb2_grpc

# Its certificate carries this name, and no other certificate of the mesh can.
CONTROL_PLANE = "isthmus-control"


def read_operator(path):
    """operator.yaml and session.yaml: `name: value`, or `name: |` and indented lines."""
    fields, name = {}, None
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith("  ") and name:
                fields[name] += line[2:]
            elif ":" in line:
                name, value = (part.strip() for part in line.split(":", 1))
                fields[name] = "" if value == "|" else value.strip('"')
    return fields


def connect(operator):
    credentials = grpc.ssl_channel_credentials(
        root_certificates=operator["roots"].encode(),
        private_key=operator["key"].encode(),
        certificate_chain=operator["certificate"].encode(),
    )
    options = [("grpc.ssl_target_name_override", CONTROL_PLANE)]
    return grpc.secure_channel(operator["address"], credentials, options)


def push(admin, files):
    """All of the files or none of them. Returns the revision that holds them."""
    documents = []
    for path in files:
        with open(path, encoding="utf-8") as file:
            documents.append(admin_pb2.Document(source=path, yaml=file.read()))
    answer = admin.Apply(admin_pb2.ApplyRequest(documents=documents), timeout=30)
    for problem in answer.problems:
        print(f"{problem.source}:{problem.line}:{problem.column}: {problem.field}: {problem.reason}", file=sys.stderr)
    if answer.problems:
        sys.exit(1)
    for warning in answer.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return answer.revision


def wait(admin, revision, timeout):
    """Until every connected proxy that the revision concerns has acknowledged or refused it."""
    for progress in admin.WaitInForce(admin_pb2.WaitInForceRequest(revision=revision), timeout=timeout):
        took = progress.elapsed_us / 1000
        print(f"revision {revision}: {progress.acknowledged} of {progress.affected} proxies have it ({took:.0f} ms)")
        if progress.complete:
            for pending in progress.pending:
                print(f"  {pending.workload}: {pending.state}", file=sys.stderr)
            return progress.acknowledged == progress.affected
    return False


def main():
    usual = os.path.expanduser("~/.config/isthmus/session.yaml")
    parser = argparse.ArgumentParser(description="Push policies and wait until every proxy has them.")
    parser.add_argument("--operator", default=os.environ.get("ISTHMUS_OPERATOR", usual), metavar="FILE")
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS")
    parser.add_argument("files", nargs="+", metavar="POLICY.yaml")
    args = parser.parse_args()
    with connect(read_operator(args.operator)) as channel:
        admin = admin_pb2_grpc.AdminStub(channel)
        try:
            revision = push(admin, args.files)
            sys.exit(0 if wait(admin, revision, args.timeout) else 1)
        except grpc.RpcError as error:
            print(f"error: {error.details()}", file=sys.stderr)
            sys.exit(3 if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED else 1)


if __name__ == "__main__":
    main()
