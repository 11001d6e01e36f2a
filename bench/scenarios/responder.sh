#!/bin/sh
# What is commonly put behind a webhook: a fixed script that kills the biggest until it is quiet.
# $1 = the alert's name, $2 = the file that takes a line for each process killed.
# It knows nothing of cgroups, of causes, or of what a process is for.

alert=$1
victims=$2

note() {
    echo "$1 $(cat "/proc/$1/comm" 2>/dev/null) $(sed -n 's/^0:://p' "/proc/$1/cgroup" 2>/dev/null)" >>"$victims"
}

# The process with the most of a column of ps(1), if it has at least $2.
biggest() {
    ps -eo "pid=,$1=" --sort="-$1" | awk -v least="$2" '$1 != 1 && $2 >= least { print $1; exit }'
}

for round in 1 2 3 4 5 6 7 8; do
    case $alert in
    *Cpu*) pids=$(biggest pcpu 25) ;;
    *Memory*) pids=$(biggest pmem 10) ;;
    *Process*)
        name=$(ps -eo comm= | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
        pids=$(pgrep -x "$name")
        ;;
    *) exit 0 ;;
    esac
    [ -n "$pids" ] || exit 0
    for pid in $pids; do
        note "$pid"
        kill -9 "$pid"
    done
    case $alert in *Process*) exit 0 ;; esac
    sleep 0.5
done
