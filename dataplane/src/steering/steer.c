/*
 * The steering program: which packets leave the kernel for a worker.
 *
 * One decision, two programs around it. `xvs_steer` (XDP) redirects what is ours to the AF_XDP socket
 * of the interface and queue it came by; `xvs_shield` (tc ingress) drops the same packets where a raw
 * socket has already copied them, so that the host's stack does not answer them too. A third one,
 * `xvs_hosted` (tc egress), gives what real servers on the box itself answer to the device by which
 * workers read from the host's stack.
 *
 * Rule: whatever is not named by the maps stays in the kernel. Whatever cannot be read (cut short,
 * an extension header not known here) is not ours either.
 *
 * Sources: RFC 791, RFC 8200 section 4, RFC 792, RFC 4443; Linux Documentation/networking/af_xdp.rst.
 */
#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/pkt_cls.h>

#include "packet.h"

/* Bounds, repeated in program.rs. */
#define MAX_INTERFACES 16
#define MAX_QUEUES 64

/* ICMP types (RFC 792); <linux/icmp.h> drags in the C library's headers. */
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

/* Roles of addresses (bits) and of endpoints (one of them), as in tables.rs. */
#define VIP 1
#define REAL 2
#define LOCAL 4
#define TUNNEL 8
#define OWN 16
#define HOSTED 32
#define WATCHED 64

/* Places in the map `numbers`, as in program.rs. */
enum number { HOST_DEVICE, LOCAL_PORTS, NUMBERS };

struct endpoint {
	struct address addr;
	__be16 port;
	__u8 protocol;
	__u8 role;
};

struct prefix {
	__u32 bits;
	struct address addr;
};

/* Ports that are taken at a prefix, as in ranges.rs. Protocol 0 stands for all. */
#define MAX_RANGES 16

struct range {
	__be16 first, last;
	__u8 protocol;
	__u8 used;
};

struct ranges {
	struct range of[MAX_RANGES];
};

/* Sizes of the next three are set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct endpoint);
	__type(value, __u8);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, __u8);
} addrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct prefix);
	__type(value, struct ranges);
} prefixes SEC(".maps");

/* Interface number -> slot: the interface's place in the configuration. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} interfaces SEC(".maps");

/*
 * The device that workers read what the host's stack sends from; the ports of fullnat's local
 * addresses, the first in the high half.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NUMBERS);
	__type(key, __u32);
	__type(value, __u32);
} numbers SEC(".maps");

/* Slot x MAX_QUEUES + receive queue -> AF_XDP socket. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_INTERFACES * MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* Order as in program.rs. */
enum counter { SEEN, REDIRECTED, PASSED, UNSERVED, SHIELDED, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);

	if (counter)
		(*counter)++;
}

static __always_inline __u8 roles(const struct address *addr)
{
	__u8 *found = bpf_map_lookup_elem(&addrs, addr);

	return found ? *found : 0;
}

/* What the longest prefix holds; shorter ones are included. */
static __always_inline struct ranges *ranges_at(const struct address *addr)
{
	struct prefix key = { .bits = 128, .addr = *addr };

	return bpf_map_lookup_elem(&prefixes, &key);
}

static __always_inline bool in_ranges(const struct ranges *ranges, __u8 protocol, __be16 port)
{
	__u16 host = bpf_ntohs(port);

#pragma unroll
	for (int i = 0; i < MAX_RANGES; i++) {
		const struct range *range = &ranges->of[i];

		if (!range->used)
			return false;
		if ((!range->protocol || range->protocol == protocol) &&
		    host >= bpf_ntohs(range->first) && host <= bpf_ntohs(range->last))
			return true;
	}
	return false;
}

/* Whether the endpoint is known by its port, or by port 0 for all ports. */
static __always_inline bool known(const struct address *addr, __u8 protocol, __be16 port, __u8 role)
{
	struct endpoint key = { .addr = *addr, .port = port, .protocol = protocol, .role = role };

	if (bpf_map_lookup_elem(&endpoints, &key))
		return true;
	key.port = 0;
	return bpf_map_lookup_elem(&endpoints, &key);
}

static __always_inline __u32 number(__u32 which)
{
	__u32 *found = bpf_map_lookup_elem(&numbers, &which);

	return found ? *found : 0;
}

/* Whether a port is one of those that fullnat uses. */
static __always_inline bool is_local_port(__be16 port)
{
	__u32 range = number(LOCAL_PORTS);
	__u16 host = bpf_ntohs(port);

	return host >= range >> 16 && host <= (range & 0xffff);
}

/*
 * An ICMP error that is not for a VIP: about a packet of ours if it quotes one to a nat real
 * server, or one that `outer`'s receiver sent in a tunnel. `at` is the quoted IP header.
 */
static __always_inline bool quotes_ours(void *at, void *end, bool v6, const struct packet *outer,
					__u8 destination)
{
	struct packet quoted = {};
	__be16 *ports;
	__be16 port = 0;
	__u8 roles_there;

	if (!(v6 ? read6(at, end, &quoted) : read4(at, end, &quoted)))
		return false;
	roles_there = roles(&quoted.destination);
	if (!(roles_there & (REAL | TUNNEL)) || quoted.fragment)
		return false;
	if (has_ports(quoted.protocol)) {
		ports = quoted.at;
		if ((void *)(ports + 2) > end)
			return false;
		port = ports[1];
		if ((roles_there & REAL) && !(destination & OWN) &&
		    known(&quoted.destination, quoted.protocol, port, REAL))
			return true;
	}
	return (roles_there & TUNNEL) && same(&quoted.source, &outer->destination) &&
	       known(&quoted.destination, quoted.protocol, port, TUNNEL);
}

/* Whether a quoted packet, at `at`, is one that fullnat may have sent. */
static __always_inline bool quotes_local(void *at, void *end, bool v6)
{
	struct packet quoted = {};
	__be16 *ports;

	if (!(v6 ? read6(at, end, &quoted) : read4(at, end, &quoted)))
		return false;
	ports = quoted.at;
	return !quoted.fragment && has_ports(quoted.protocol) && (void *)(ports + 2) <= end &&
	       is_local_port(ports[0]);
}

static __always_inline bool icmp_is_ours(void *end, bool v6, const struct packet *packet,
					 __u8 destination)
{
	__u8 *icmp = packet->at;
	bool echo, error;

	/* Type, code, checksum and four octets before the quoted packet, in both families. */
	if ((void *)(icmp + 8) > end)
		return false;
	if (v6) {
		echo = icmp[0] == ICMPV6_ECHO_REQUEST;
		error = icmp[0] >= ICMPV6_DEST_UNREACH && icmp[0] <= ICMPV6_PARAMPROB;
	} else {
		echo = icmp[0] == ICMP_ECHO;
		error = icmp[0] == ICMP_DEST_UNREACH || icmp[0] == ICMP_SOURCE_QUENCH ||
			icmp[0] == ICMP_TIME_EXCEEDED || icmp[0] == ICMP_PARAMETERPROB;
	}
	if (destination & VIP)
		return echo || error;
	if (!error)
		return false;
	return ((destination & LOCAL) && quotes_local(icmp + 8, end, v6)) ||
	       quotes_ours(icmp + 8, end, v6, packet, destination);
}

static __always_inline bool packet_is_ours(void *end, bool v6, const struct packet *packet)
{
	__u8 destination = roles(&packet->destination);
	/* The box's own addresses stay its own unless they are VIPs by name. */
	struct ranges *ranges = destination & OWN ? 0 : ranges_at(&packet->destination);
	bool from_real;
	__be16 *ports = packet->at;

	if (ranges)
		destination |= VIP;
	from_real = !(destination & OWN) && (roles(&packet->source) & REAL);
	if (packet->fragment)
		return (destination & (VIP | LOCAL)) || from_real;
	if (packet->protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return icmp_is_ours(end, v6, packet, destination);
	if (!has_ports(packet->protocol) || (void *)(ports + 2) > end)
		return false;
	if ((destination & LOCAL) && is_local_port(ports[1]))
		return true;
	if (ranges && in_ranges(ranges, packet->protocol, ports[1]))
		return true;
	if ((destination & VIP) && known(&packet->destination, packet->protocol, ports[1], VIP))
		return true;
	return from_real && known(&packet->source, packet->protocol, ports[0], REAL);
}

/* The decision. A frame to a group or to everyone is never ours: no flow begins with one. */
static __always_inline bool ours(void *data, void *end)
{
	struct ethhdr *ethernet = data;
	struct packet packet = {};
	bool v6;

	if ((void *)(ethernet + 1) > end || (ethernet->h_dest[0] & 1))
		return false;
	if (!read_frame(data, end, &packet, &v6))
		return false;
	/* Told apart here, so that each family's offsets stay the verifier's to follow. */
	return v6 ? packet_is_ours(end, true, &packet) : packet_is_ours(end, false, &packet);
}

SEC("xdp")
int xvs_steer(struct xdp_md *ctx)
{
	__u32 interface = ctx->ingress_ifindex;
	__u32 *slot;
	int action;

	count(SEEN);
	if (!ours((void *)(long)ctx->data, (void *)(long)ctx->data_end)) {
		count(PASSED);
		return XDP_PASS;
	}
	slot = bpf_map_lookup_elem(&interfaces, &interface);
	if (!slot || *slot >= MAX_INTERFACES || ctx->rx_queue_index >= MAX_QUEUES) {
		count(UNSERVED);
		return XDP_PASS;
	}
	/* The last argument is what becomes of the packet where no socket is registered. */
	action = bpf_redirect_map(&sockets, *slot * MAX_QUEUES + ctx->rx_queue_index, XDP_PASS);
	count(action == XDP_REDIRECT ? REDIRECTED : UNSERVED);
	return action;
}

/* Octets that must lie in one piece to be read: tags, an IPv6 chain, an error and its quote. */
#define LINEAR 256

SEC("classifier")
int xvs_shield(struct __sk_buff *skb)
{
	__u32 linear = skb->len < LINEAR ? skb->len : LINEAR;

	bpf_skb_pull_data(skb, linear);
	if (!ours((void *)(long)skb->data, (void *)(long)skb->data_end))
		return TC_ACT_UNSPEC;
	count(SHIELDED);
	return TC_ACT_SHOT;
}

/* Whether an ICMP error quotes a packet to a nat real server on the box. */
static __always_inline bool quotes_hosted(void *end, bool v6, const struct packet *packet)
{
	struct packet quoted = {};
	__u8 *icmp = packet->at;
	__be16 *ports;

	if ((void *)(icmp + 8) > end)
		return false;
	if (!(v6 ? read6(icmp + 8, end, &quoted) : read4(icmp + 8, end, &quoted)))
		return false;
	ports = quoted.at;
	return !quoted.fragment && has_ports(quoted.protocol) && (void *)(ports + 2) <= end &&
	       known(&quoted.destination, quoted.protocol, ports[1], HOSTED);
}

/* Who sent a packet: HOSTED, WATCHED or neither. */
static __always_inline __u8 sender(void *end, bool v6, const struct packet *packet)
{
	__u8 source = roles(&packet->source);
	__be16 *ports = packet->at;

	if (!(source & (HOSTED | WATCHED)))
		return 0;
	if (packet->fragment)
		return source & HOSTED;
	if (packet->protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return quotes_hosted(end, v6, packet) ? HOSTED : 0;
	if (!has_ports(packet->protocol) || (void *)(ports + 2) > end)
		return 0;
	if (known(&packet->source, packet->protocol, ports[0], HOSTED))
		return HOSTED;
	return known(&packet->source, packet->protocol, ports[0], WATCHED) ? WATCHED : 0;
}

/* What leaves the host's stack: a nat real server's packets go to a worker, another's are shown to one. */
SEC("classifier")
int xvs_hosted(struct __sk_buff *skb)
{
	__u32 linear = skb->len < LINEAR ? skb->len : LINEAR;
	struct packet packet = {};
	__u8 from = 0;
	void *end;
	bool v6;

	bpf_skb_pull_data(skb, linear);
	end = (void *)(long)skb->data_end;
	if (read_frame((void *)(long)skb->data, end, &packet, &v6))
		from = v6 ? sender(end, true, &packet) : sender(end, false, &packet);
	if (from == HOSTED)
		return bpf_redirect(number(HOST_DEVICE), 0);
	if (from == WATCHED)
		bpf_clone_redirect(skb, number(HOST_DEVICE), 0);
	return TC_ACT_UNSPEC;
}

/* Uses no helper that is reserved to programs under the GPL. */
char _license[] SEC("license") = "Apache-2.0 OR MIT";
