/*
 * The rig's traffic: what makes packets, and what counts those that arrive.
 *
 * `xvs_generate` is run by BPF_PROG_TEST_RUN on live frames: the kernel gives it a frame, it writes a
 * packet into it and sends it through the device, with neither a socket nor an skb, so that the
 * generator stays several times faster than what is measured. A frame may come back with what its
 * last receiver made of it, so all of it is written each time. `xvs_sink` counts packets of the
 * rig at the far end and drops them before the receiving host's stack sees them.
 *
 * Sources: Linux Documentation/bpf/bpf_prog_run.rst ("Running XDP programs in live frame mode").
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Octets of a frame without its check sequence: 64 with it. */
#define FRAME 60
/* Places in it: IPv4 without options behind Ethernet. */
#define PROTOCOL (ETH_HLEN + 9)
#define IP_SUM (ETH_HLEN + 10)
#define SOURCE (ETH_HLEN + 12)
#define PORTS (ETH_HLEN + 20)
#define TCP_SUM (PORTS + 16)
#define UDP_SUM (PORTS + 6)

/* As load.rs writes it. */
struct plan {
	__u32 interface;
	/* Flows that take turns at random; 0: every packet is of a new one. */
	__u32 flows;
	/* The number of the first packet: where the new flows go on. */
	__u32 first;
	/* Set to end it: what is left of a call is dropped at once. */
	__u32 stop;
	/* Sums of the IPv4 header and of the segment with its pseudo header, but for what follows. */
	__u32 ip_sum;
	__u32 l4_sum;
	/* The packet, but source port, the lower half of the source address, and checksums. */
	__u8 frame[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plans SEC(".maps");

/* Packets made so far. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} made SEC(".maps");

/* Packets that arrived. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} arrived SEC(".maps");

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

SEC("xdp")
int xvs_generate(struct xdp_md *ctx)
{
	__u8 *frame = (void *)(long)ctx->data;
	__u32 zero = 0, flow;
	__u16 port, source, sum;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	__u64 *number = bpf_map_lookup_elem(&made, &zero);

	if (!plan || !number || (void *)(frame + FRAME) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (plan->stop)
		return XDP_DROP;
	__builtin_memcpy(frame, plan->frame, FRAME);
	flow = plan->first + *number;
	/* Spread by Fibonacci hashing: the order of flows looks random and is the same each time. */
	if (plan->flows)
		flow = (__u32)((*number * 0x9e3779b97f4a7c15ULL) >> 32) % plan->flows;
	(*number)++;
	/* 16,384 ports of each source address, above those that services have. */
	port = bpf_htons(16384 + (flow & 0x3fff));
	source = bpf_htons(1 + (flow >> 14));
	*(__u16 *)(frame + PORTS) = port;
	*(__u16 *)(frame + SOURCE + 2) = source;
	*(__u16 *)(frame + IP_SUM) = ~folded(plan->ip_sum + source);
	sum = ~folded(plan->l4_sum + source + port);
	if (frame[PROTOCOL] == IPPROTO_TCP)
		*(__u16 *)(frame + TCP_SUM) = sum;
	else
		/* 0 stands for no checksum. */
		*(__u16 *)(frame + UDP_SUM) = sum ? sum : 0xffff;
	return bpf_redirect(plan->interface, 0);
}

SEC("classifier")
int xvs_sink(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&arrived, &zero);

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	if (count)
		(*count)++;
	return TC_ACT_SHOT;
}

/* Uses no helper that is reserved to programs under the GPL. */
char _license[] SEC("license") = "Apache-2.0 OR MIT";
