/*
 * Sends a burst of frames in one system call.
 *
 * A copy-mode AF_XDP socket sends by one skb after the other, each with a softirq of its own behind
 * it, in which a virtual peer receives that one packet: some 1,000 ns. This program is run by
 * BPF_PROG_TEST_RUN on an skb that serves as a mould: each frame of the ring is written into it
 * and a clone of it sent, all with softirqs held back, so that allocation is the kernel's fast
 * path and the receiver gets the burst at once: some 230 ns, receiver included.
 *
 * The skb's protocol is that of the mould, which eth_type_trans() read; so a burst is sent in as
 * many runs as it has ethertypes, each skipping what is not its own.
 *
 * Sources: Linux net/bpf/test_run.c (bpf_prog_test_run_skb), net/core/filter.c (bpf_clone_redirect).
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

/* As in sender.rs. */
#define BURST 64
#define CAPACITY 4096
#define ROOM (BURST * CAPACITY)

/* One frame to be sent; a `length` of 0 ends the burst. */
struct slot {
	__u32 interface;
	__u16 length;
	/* The ethertype as it stands in the frame. */
	__u16 protocol;
	/* Where its octets lie. */
	__u32 offset;
	/* What became of it: 0 is sent, less is an error number, more what a queue answered. */
	__s32 result;
};

struct burst {
	struct slot slots[BURST + 1];
	/* Frames, close to each other: a burst of small ones touches few pages. */
	__u8 room[ROOM];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct burst);
} bursts SEC(".maps");

struct run {
	struct __sk_buff *skb;
	struct burst *burst;
};

static long send_one(__u32 index, void *context)
{
	struct run *run = context;
	struct __sk_buff *skb = run->skb;
	struct slot *slot;
	__u32 length, offset;
	long result = 0;

	if (index > BURST)
		return 1;
	slot = &run->burst->slots[index];
	length = slot->length;
	offset = slot->offset;
	if (!length)
		return 1;
	if (slot->protocol != skb->protocol || length > CAPACITY || offset > ROOM - CAPACITY)
		return 0;
	if (skb->len != length)
		result = bpf_skb_change_tail(skb, length, 0);
	if (!result)
		result = bpf_skb_store_bytes(skb, 0, run->burst->room + offset, length, 0);
	if (!result)
		result = bpf_clone_redirect(skb, slot->interface, 0);
	slot->result = result;
	return 0;
}

SEC("classifier")
int xvs_send(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct run run = { .skb = skb, .burst = bpf_map_lookup_elem(&bursts, &zero) };

	if (run.burst)
		bpf_loop(BURST + 1, send_one, &run, 0);
	return 0;
}

/* Uses no helper that is reserved to programs under the GPL. */
char _license[] SEC("license") = "Apache-2.0 OR MIT";
