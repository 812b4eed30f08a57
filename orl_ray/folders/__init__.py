"""Folders on local disks, S3 and Google Cloud Storage, behind one small interface."""

from orl_ray.folders.backend import CredentialsError, FileInfo, StorageRefusedError, StorageUnavailableError
from orl_ray.folders.folder import Folder, file_at

__all__ = ["CredentialsError", "FileInfo", "Folder", "StorageRefusedError", "StorageUnavailableError", "file_at"]
