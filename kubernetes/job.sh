#!/bin/sh
# Runs a job as the entrypoint of a RayJob: job.sh jobs/preprocess.py --data … --output …
#
# KubeRay retries every job that is FAILED in Ray, which every exit code but 0 is. A job that a retry would not help (2: usage, 3: more
# rejects than allowed) therefore stops itself: it is then STOPPED, which KubeRay does not retry. OUTPUT/result.json says why.
python "$@"
code=$?
case $code in
    2 | 3)
        submission=$(python -c "import json, os; print(json.loads(os.environ['RAY_JOB_CONFIG_JSON_ENV_VAR'])['metadata']['job_submission_id'])")
        echo "exit code $code: another try would end the same way, so this one stops itself" >&2
        ray job stop --no-wait "$submission" && sleep 60  # ends here
        ;;
esac
exit $code
