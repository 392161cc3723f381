"""From any config of a toolkit to a run with frozen parts and adapters."""
