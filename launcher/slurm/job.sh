# The life of a batch job, for the scripts beside it, whose function `launch` starts the ranks: a request to stop is passed
# on to it, and a job that is saved and not done goes back into the queue.

[ -x "$(command -v "$moetrain")" ] || { echo "no program $moetrain: build it, or set MOETRAIN to where it is" >&2; exit 2; }

# USR1 comes some minutes before the time limit (--signal), and at a preemption with preempt_send_user_signal: save, go on
# later. TERM is scancel, or a preemption after which Slurm itself requeues: save only.
asked= cancelled= pid=
ask() { asked=yes; [ -z "$pid" ] || kill -USR1 "$pid"; }
trap ask USR1
trap 'cancelled=yes; ask' TERM

launch "$@" &
pid=$!
[ -z "$asked" ] || ask # it came before
while :; do
    wait "$pid"
    code=$?
    kill -0 "$pid" 2>/dev/null || break # else a signal has interrupted the wait
done

[ -z "$asked" ] || [ "$code" != 138 ] || code=75 # asked before the ranks could note it: nothing was begun
# 75: saved, or the run directory is held by a job that does not answer; run the same command again. All else is final.
if [ "$code" = 75 ] && [ -z "$cancelled" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
