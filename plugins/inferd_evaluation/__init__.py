"""What evaluations need of data, answers and figures: functions, which run in cells of workers."""
