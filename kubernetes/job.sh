#!/bin/sh
# Runs a job as the entrypoint of a RayJob: job.sh jobs/preprocess.py --data … --output …
#
# KubeRay tries again whatever ends as FAILED in Ray, and every exit code but 0 does. What would end the same way again (2: usage, 3: more
# rejects than allowed) therefore stops itself: it is STOPPED, which KubeRay leaves as it is. OUTPUT/result.json says why.
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
