"""Generated code of `inferd.agent.v1`."""
