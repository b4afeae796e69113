"""The engines that the tests run on: one server of each kind per test run, started when first asked for."""

from engines_s3 import moto_server, moto_url, seaweedfs_server, seaweedfs_url

__all__ = ["moto_server", "moto_url", "seaweedfs_server", "seaweedfs_url"]
