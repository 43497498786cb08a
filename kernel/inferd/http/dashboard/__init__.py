"""The dashboard: a page that the gateway serves, and the stream that keeps it up to date; docs/dashboard.md."""
