"""Which flags of the engines take a value: all that's needed to find the image.

Only flags are listed, with what docker 20.10 to 28, podman 4 to 5 and nerdctl know together. A
flag in no table is refused unless written ``--flag=value``: to guess could mean to verify one
word and to run another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VERIFIED_VERBS: Final = frozenset({"pull", "run", "create", "build"})

# A flag that isn't known but named like this could itself name an image.
SUSPECT: Final = ("image", "sbom", "attest", "from", "mount", "context", "pod")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True)
class FlagTable:
    """Flags of one verb: those that stand alone, and those that a value follows."""

    alone: frozenset[str]
    valued: frozenset[str]


_GLOBAL_DOCKER = FlagTable(
    _words("-D --debug --tls --tlsverify -v --version --help -h"),
    _words("--config -c --context -H --host -l --log-level --tlscacert --tlscert --tlskey"),
)
_GLOBAL_PODMAN = FlagTable(
    _words("--help -h --noout -r --remote --syslog -v --version --transient-store --trace"),
    _words(
        "--cgroup-manager --config --conmon -c --connection --events-backend --hooks-dir"
        " --identity --imagestore --log-level --module --namespace --network-cmd-path"
        " --network-config-dir --out --root --runroot --runtime --runtime-flag --ssh"
        " --storage-driver --storage-opt --tmpdir --url --volumepath --context -H --host"
        " --pull-option --db-backend"
    ),
)
_GLOBAL_NERDCTL = FlagTable(
    _words(
        "--debug --debug-full --experimental --help -h --insecure-registry --kube-hide-dupe"
        " -v --version"
    ),
    _words(
        "-a --address -H --host --bridge-ip --cgroup-manager --cni-netconfpath --cni-path"
        " --data-root --host-gateway-ip --hosts-dir -n --namespace --snapshotter"
        " --storage-driver --userns-remap"
    ),
)

_RUN = FlagTable(
    _words(
        "-d --detach --disable-content-trust --env-host --help --http-proxy --init -i"
        " --interactive --no-healthcheck --no-hostname --no-hosts --oom-kill-disable --passwd"
        " --privileged -P --publish-all -q --quiet --read-only --read-only-tmpfs --replace --rm"
        " --rmi --rootfs --sig-proxy --tls-verify -t --tty --unsetenv-all --use-api-socket"
    ),
    _words(
        "--add-host --annotation --arch -a --attach --authfile --blkio-weight"
        " --blkio-weight-device --cap-add --cap-drop --cert-dir --cgroup-conf --cgroup-parent"
        " --cgroupns --cgroups -c --chrootdirs --cidfile --conmon-pidfile --cosign-key --cpu-count"
        " --cpu-percent --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime --cpu-shares"
        " --cpus --cpuset-cpus --cpuset-mems --creds --decryption-key --detach-keys --device"
        " --device-cgroup-rule --device-read-bps --device-read-iops --device-write-bps"
        " --device-write-iops --dns --dns-opt --dns-option --dns-search --domainname"
        " --entrypoint -e --env --env-file --env-merge --expose --gidmap --gpus --group-add"
        " --group-entry --health-cmd --health-interval --health-log-destination"
        " --health-max-log-count --health-max-log-size --health-on-failure --health-retries"
        " --health-start-interval --health-start-period --health-startup-cmd"
        " --health-startup-interval --health-startup-retries --health-startup-success"
        " --health-startup-timeout --health-timeout -h --hostname --hosts-file --hostuser"
        " --image-volume --init-ctr --init-path --io-maxbandwidth --io-maxiops --ip --ip6 --ipc"
        " --ipfs-address --isolation --kernel-memory -l --label --label-file --link"
        " --link-local-ip --log-driver --log-opt --mac-address -m --memory"
        " --memory-reservation --memory-swap --memory-swappiness --mount --name --net --network"
        " --net-alias --network-alias --oom-score-adj --os --passwd-entry --personality --pid"
        " --pidfile --pids-limit --platform --pod --pod-id-file --preserve-fd --preserve-fds -p"
        " --publish --pull --rdt-class --requires --restart --retry --retry-delay --runtime"
        " --sdnotify --seccomp-policy --secret --security-opt --shm-size --shm-size-systemd"
        " --stop-signal --stop-timeout --storage-opt --subgidname --subuidname --sysctl"
        " --systemd --timeout --tmpfs --tz --uidmap --ulimit --umask --unsetenv -u --user"
        " --userns --uts --variant --verify -v --volume --volume-driver --volumes-from -w"
        " --workdir"
    ),
)
_PULL = FlagTable(
    _words(
        "-a --all-tags --all-platforms --disable-content-trust --help -h -q --quiet --tls-verify"
    ),
    _words(
        "--arch --authfile --cert-dir --cosign-key --creds --decryption-key --os --platform"
        " --policy --retry --retry-delay --unpack --variant --verify"
    ),
)
_BUILD = FlagTable(
    _words(
        "--all-platforms --check --compat-volumes --compress -D --disable-compression --debug"
        " --disable-content-trust --force-rm --help --http-proxy --identity-label --inherit-labels"
        " --layers --load --logsplit --no-cache --no-hostname --no-hosts --omit-history --pull"
        " --pull-always --pull-never --push -q --quiet --rm --rewrite-timestamp"
        " --skip-unused-stages --squash --squash-all --stdin --stream --tls-verify"
    ),
    _words(
        "--add-host --allow --annotation --arch --attest --authfile --build-arg --build-arg-file"
        " --build-context --builder --cache-from --cache-to --cache-ttl --call --cap-add"
        " --cap-drop --cert-dir --cgroup-parent --cgroupns --cpp-flag"
        " --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime --cpu-shares -c"
        " --cpuset-cpus --cpuset-mems --creds --cw --decryption-key --device --dns --dns-option"
        " --dns-search --env -f --file --format --from --group-add --hooks-dir --iidfile"
        " --ignorefile --ipc --isolation --jobs --label --layer-label --logfile --manifest -m"
        " --memory --memory-swap --metadata-file --network --no-cache-filter --os --os-feature"
        " --os-version -o --output --pid --platform --policy --progress --provenance --retry"
        " --retry-delay --runtime --runtime-flag --sbom --secret --security-opt --shm-size"
        " --sign-by --ssh -t --tag --target --timestamp --ulimit --unsetenv --unsetlabel --userns"
        " --userns-gid-map --userns-gid-map-group --userns-gid-map-user --userns-uid-map"
        " --userns-uid-map-group --userns-uid-map-user --uts --variant -v --volume"
    ),
)


def global_flags(engine: str) -> FlagTable:
    """Give the flags before the verb."""
    return {"podman": _GLOBAL_PODMAN, "nerdctl": _GLOBAL_NERDCTL}.get(engine, _GLOBAL_DOCKER)


def verb_flags(verb: str, engine: str) -> FlagTable:
    """Give the flags of a verb; run's short flags differ little between the engines."""
    if verb == "pull":
        return _PULL
    if verb == "build":
        return _BUILD
    if verb in {"run", "create"}:
        return FlagTable(_RUN.alone, _RUN.valued | _words("-n")) if engine == "nerdctl" else _RUN
    return FlagTable(frozenset(), frozenset())
