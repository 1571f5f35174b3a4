"""A web page for ./separate.sh (docs/page.md). The server imports no network: what is heavy runs in programs of its own."""
