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

/* One frame to be sent; a `length` of 0 ends the burst. */
struct slot {
	__u32 interface;
	__u16 length;
	/* The ethertype as it stands in the frame. */
	__u16 protocol;
	/* What became of it: 0 is sent, less is an error number, more what a queue answered. */
	__s32 result;
	__u32 unused;
	__u8 frame[CAPACITY];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BURST + 1);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct run {
	struct __sk_buff *skb;
};

static long send_one(__u32 index, void *context)
{
	struct __sk_buff *skb = ((struct run *)context)->skb;
	struct slot *slot = bpf_map_lookup_elem(&slots, &index);
	__u32 length;
	long result = 0;

	if (!slot || !slot->length)
		return 1;
	length = slot->length;
	if (slot->protocol != skb->protocol || length > CAPACITY)
		return 0;
	if (skb->len != length)
		result = bpf_skb_change_tail(skb, length, 0);
	if (!result)
		result = bpf_skb_store_bytes(skb, 0, slot->frame, length, 0);
	if (!result)
		result = bpf_clone_redirect(skb, slot->interface, 0);
	slot->result = result;
	return 0;
}

SEC("classifier")
int xvs_send(struct __sk_buff *skb)
{
	struct run run = { .skb = skb };

	bpf_loop(BURST + 1, send_one, &run, 0);
	return 0;
}

/* Uses no helper that is reserved to programs under the GPL. */
char _license[] SEC("license") = "Apache-2.0 OR MIT";
