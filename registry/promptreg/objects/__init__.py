"""Where the bytes are: content-addressed objects in a directory or in S3, and a cache in front of them."""

from promptreg.objects.cache import ObjectCache
from promptreg.objects.directory import DirectoryStore
from promptreg.objects.store import MAX_OBJECT_SIZE, ObjectStore
from promptreg.objects.urls import open_store

__all__ = ["MAX_OBJECT_SIZE", "DirectoryStore", "ObjectCache", "ObjectStore", "open_store"]
