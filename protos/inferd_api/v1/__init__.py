"""The wire API, package `inferd.v1`."""
