#!/bin/sh
# Builds a User-mode Linux kernel: build-kernel.sh SOURCE.tar.xz FRAGMENT OUTPUT
# Works in the folder of OUTPUT and removes what it unpacked there. Called by `heliograph-lab setup`, which caches
# the result under a key made of the source's version, the fragment and this very file.
set -eu

archive=$1 fragment=$2 output=$3
work=$(dirname "$output")/source
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT

echo "step: unpack $archive"
# More than half of the files are for drivers and processors that are never compiled here. Their Kconfig files stay.
set -- --exclude="*/Documentation/devicetree" --exclude="*/tools/perf" --exclude="*/tools/testing" --exclude="*.dts*"
for folder in arch/alpha arch/arc arch/arm arch/arm64 arch/csky arch/ia64 arch/m68k arch/mips arch/parisc \
    arch/powerpc arch/riscv arch/s390 arch/sh arch/sparc arch/xtensa drivers/gpu drivers/infiniband drivers/media \
    drivers/net/ethernet drivers/net/wireless drivers/scsi drivers/staging sound; do
    set -- "$@" --exclude="linux-source-*/$folder/*.[chS]"
done
tar -xf "$archive" -C "$work" --strip-components=1 "$@"
cd "$work"

# Linux 6.1 saves the host's floating point registers in a fixed 2696 bytes. A processor with AMX (Sapphire
# Rapids and later) has 11 kB of them, and the kernel dies at boot: "ptrace set fp regs failed, errno = 14".
echo "step: patch"
offsets=arch/x86/um/user-offsets.c
sed -i 's/HOST_FP_SIZE, 2696/HOST_FP_SIZE, 16384/' "$offsets"
grep -q 'HOST_FP_SIZE, 16384' "$offsets" || {
    echo "$offsets is not as expected: the patch for processors with AMX does not fit this source" >&2
    exit 1
}

echo "step: configure"
make -s ARCH=um x86_64_defconfig
scripts/kconfig/merge_config.sh -m -O . .config "$fragment" >merge.log
make -s ARCH=um olddefconfig

# An option that Kconfig dropped without a message would cause a strange test failure much later.
missing=$(grep -E '^CONFIG_[A-Z0-9_]+=y' "$fragment" | while read -r option; do
    grep -qx "$option" .config || echo "$option"
done)
[ -z "$missing" ] || echo "not taken by this source: $(echo $missing)" >&2

echo "step: compile"
make -s ARCH=um -j"$(nproc)" linux
strip linux
mv linux "$output"
echo "step: done"
