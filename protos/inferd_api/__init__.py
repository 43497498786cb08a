"""Generated code of the wire API, from the `.proto` files beside it."""
