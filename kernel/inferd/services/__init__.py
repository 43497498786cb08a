"""Translators between the wire API and the runtime. They decide nothing."""
