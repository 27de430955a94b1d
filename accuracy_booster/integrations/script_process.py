"""The main module of a process that a script, run by `scripts.run_script`, has started."""

from accuracy_booster.integrations.scripts import continue_in_child

if __name__ in ("__main__", "__mp_main__"):
    continue_in_child(globals())
