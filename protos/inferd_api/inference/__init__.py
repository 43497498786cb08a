"""The Open Inference Protocol on the wire, package `inference`."""
