"""3DSPA: how real a generated video moves. `spa.realism` scores one."""
